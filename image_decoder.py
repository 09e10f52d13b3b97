"""Read a picture from standard input, and write an avatar to standard output.

`image_utils` runs this file in a separate process for each upload. Limits on CPU time
and memory protect the server from malicious pictures. macOS doesn't enforce the memory
limit.
"""

import os
import resource
import sys
from contextlib import suppress
from io import BytesIO

from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

MAX_CPU_SECONDS = 4
MAX_MEMORY_BYTES = 512 * 1024 * 1024
NICENESS = 10

Box = tuple[int, int, int, int]

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
# Pillow can decode a JPEG at a reduced scale, but other formats only at full size.
MAX_JPEG_PIXELS = 50_000_000
MAX_PIXELS = 20_000_000
AVATAR_SIZE = (300, 300)
# For each color space of an ICC profile, the mode to convert from, and the modes of the
# pictures to which the profile can apply.
GRAY_MODES = {"1", "L", "LA", "I;16"}
PROFILES = {
    "GRAY": ("L", GRAY_MODES),
    "RGB": ("RGB", GRAY_MODES | {"P", "RGB", "RGBA"}),
    "CMYK": ("CMYK", {"CMYK"}),
}
# The largest value of a pixel in a grayscale PNG with 2 or 4 bits per pixel.
GRAY_LEVELS = {"L;2": 3, "L;4": 15}
JPEG_QUALITY = 85

# Maximum size of the ICC profile and of each text in a PNG, in bytes. Some profiles
# exceed Pillow's limit of 1 MiB, so use libpng's limit.
PngImagePlugin.MAX_TEXT_CHUNK = 8_000_000


def main() -> None:
    """Write an avatar, or exit with `EX_DATAERR` if the picture can't be decoded."""
    limit_process()
    try:
        avatar = make_avatar(sys.stdin.buffer.read())
    # OSError, SyntaxError, struct.error, IndexError, zlib.error, MemoryError or others.
    except Exception as exc:  # noqa: BLE001 -- Pillow doesn't list its errors
        sys.stderr.write(f"{type(exc).__name__}: {exc}")
        sys.exit(os.EX_DATAERR)
    sys.stdout.buffer.write(avatar)


def limit_process() -> None:
    os.nice(NICENESS)
    limits = {
        resource.RLIMIT_CPU: MAX_CPU_SECONDS,
        resource.RLIMIT_AS: MAX_MEMORY_BYTES,
        # A process that exceeds its CPU limit would write a core dump.
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        # This can fail on macOS, which doesn't enforce RLIMIT_AS, or if the hard limit
        # is already lower.
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))


def make_avatar(content: bytes) -> bytes:
    """Return the center of a picture as an upright JPEG on white, without metadata."""
    square, orientation = read_square(content)
    avatar = to_resizable_mode(square).resize(AVATAR_SIZE, Image.Resampling.LANCZOS)
    avatar = to_srgb(avatar, square)
    # Create a new image, because Pillow would save the comment of the original.
    canvas = Image.new("RGB", AVATAR_SIZE, "white")
    canvas.paste(avatar, mask=avatar if avatar.has_transparency_data else None)
    canvas.getexif()[ExifTags.Base.Orientation] = orientation
    output = BytesIO()
    upright = ImageOps.exif_transpose(canvas)
    upright.save(output, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return output.getvalue()


def read_square(content: bytes) -> tuple[Image.Image, int]:
    """Return the square at the center of a picture, and its EXIF orientation."""
    with open_image(content) as image:
        scale_transparency(image)
        pixels = image.width * image.height
        is_jpeg = image.format in {"JPEG", "MPO"}
        if pixels > (MAX_JPEG_PIXELS if is_jpeg else MAX_PIXELS):
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        # Decoding at twice the size makes the avatar sharper, but takes too much memory
        # for very large, narrow JPEGs.
        factor = 2 if pixels <= MAX_PIXELS else 1
        image.draft(None, (factor * AVATAR_SIZE[0], factor * AVATAR_SIZE[1]))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # ImageOps.fit would copy the whole picture if it is transparent.
        square = crop(image, (left, top, left + side, top + side))
        return square, get_orientation(image)


def open_image(content: bytes) -> ImageFile.ImageFile:
    # Like browsers, accept wrong checksums of PNG metadata. The setting is reset before
    # the pixels are read, because it would also accept incomplete files.
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def scale_transparency(image: ImageFile.ImageFile) -> None:
    """Scale the transparent color of a PNG to 8 bits. Pillow only scales the pixels."""
    transparency = image.info.get("transparency")
    raw_mode = str(image.tile[0].args) if image.tile else ""
    if isinstance(transparency, int) and raw_mode in GRAY_LEVELS:
        image.info["transparency"] = transparency * 255 // GRAY_LEVELS[raw_mode]
    if isinstance(transparency, tuple) and raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in transparency)


def crop(image: ImageFile.ImageFile, box: Box) -> Image.Image:
    """Return part of a picture.

    The area outside of a GIF's first frame is transparent, as in browsers. Pillow would
    fill it with a color.
    """
    frame = image.tile[0].extents if image.format == "GIF" else None
    if frame is None or frame == (0, 0, *image.size):
        return image.crop(box)
    x, y = frame[:2]
    # `crop` adds transparent pixels outside of an RGBA image.
    pixels = image.crop(frame).convert("RGBA")
    return pixels.crop((box[0] - x, box[1] - y, box[2] - x, box[3] - y))


def get_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, or 1 (upright) if it can't be read."""
    # `getexif` would also read XMP data and PNG text, which can be outdated because the
    # picture was rotated later. Browsers ignore both.
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        orientation = exif.get(ExifTags.Base.Orientation)
    # Broken EXIF data is no reason to reject a picture.
    except Exception:  # noqa: BLE001 -- Pillow doesn't list its errors
        return 1
    return orientation if isinstance(orientation, int) else 1


def to_resizable_mode(image: Image.Image) -> Image.Image:
    """Convert an image to a mode in which pixels can be averaged."""
    if image.mode == "I;16":
        image = to_8_bits(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in {"1", "P"}:
        return image.convert("RGB")
    return image


def to_srgb(avatar: Image.Image, original: Image.Image) -> Image.Image:
    """Convert the colors to sRGB with the ICC profile of the original picture.

    Ignore a profile that can't be used, as browsers do.
    """
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(original.info["icc_profile"]))
        mode, usable_for = PROFILES[profile.profile.xcolor_space.strip()]
        if original.mode not in usable_for:
            return avatar
        colors = ImageCms.profileToProfile(
            avatar.convert(mode),
            profile,
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, KeyError, OSError):
        return avatar
    if colors is None:
        return avatar
    if avatar.mode == "RGBA":
        colors.putalpha(avatar.getchannel("A"))
    return colors


def to_8_bits(image: Image.Image) -> Image.Image:
    """Convert a 16-bit grayscale image and its transparent color to 8 bits."""
    gray = image.point(lambda value: value / 256).convert("L")
    transparency = image.info.get("transparency")
    if isinstance(transparency, int):
        gray.info["transparency"] = transparency // 256
    return gray


if __name__ == "__main__":
    main()
