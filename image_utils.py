"""Profile pictures: made from uploads, put where they are kept, deleted there."""

import ctypes
import math
import os
import re
import struct
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, WebPImagePlugin

from config import settings
from webp_lossless import code_sets

SIZE = (300, 300)
QUALITY = 85
# JPEG is decoded at a reduced scale, the others at full size.
MAX_JPEG_PIXELS = 50_000_000
MAX_PIXELS = 20_000_000
# Decoders that an upload can reach, beside the one for JPEG.
FORMATS = ("PNG", "GIF", "WEBP")
# Chunks, blocks and padding can be as short as a byte, and Pillow takes a microsecond
# or more for each piece: five megabytes of them keep it busy for seconds.
MAX_PIECES = 50_000
# Chunks of a PNG that unpack to a megabyte each, whatever they have to do with the
# picture; that takes two milliseconds.
PACKED_CHUNKS = (b"iCCP", b"zTXt", b"iTXt")
MAX_PACKED_CHUNKS = 30
# Of a PNG's lines when they are unpacked. 20 megapixels have 80 MB of 8 bits and alpha,
# which take Pillow 0.7 seconds; of 16 bits it is twice as much, and fits into an upload
# only if it was made to.
MAX_LINE_BYTES = 100_000_000
# Of a picture without loss libwebp keeps two copies and 20 KB for each of its sets of
# codes. Encoders make 1,342 sets at the most for 20 megapixels, and 2,600 for ten.
MAX_WEBP_BYTES = 200_000_000
CODE_SET_BYTES = 20_600
# A JPEG has no room for more in one segment.
MAX_NOTE_BYTES = 65_535
# What undoes each orientation that EXIF 2.32 (section 4.6.4, tag 0x0112) knows.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
M_MMAP_THRESHOLD = -3  # <malloc.h>
# Rows of the reduced picture that are made at a time.
BAND_ROWS = 16

# JPEG, by ITU-T T.81: a segment begins with \xff and its marker (table B.1). In coded
# data no byte follows \xff but 0 and restart markers (section B.1.1.5), and libjpeg
# skips those that mean nothing too.
JPEG_START = b"\xff\xd8"
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
END, SCAN, PROGRESSIVE = 0xD9, 0xDA, 0xC2
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Baseline, extended and progressive with Huffman codes, which every browser reads.
# Arithmetic codes spend no bits on what they expect, so that a small file can ask for
# any amount of work; and without loss nothing is decoded at a reduced scale.
CODINGS = {0xC0, 0xC1, PROGRESSIVE}
# What cameras and programs note: APP1 to APP13, APP15 and comments. APP0 and APP14 tell
# which colours are meant.
NOTES = {*range(0xE1, 0xEE), 0xEF, 0xFE}
# Of these the ones that can tell the orientation.
WANTED_NOTES = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")
MAX_SEGMENTS = 1000
MAX_SCANS = 100
# Each scan goes once more over the samples it is for. As encoders write it, the scans
# of a progressive picture take 8 times its pixels (4:2:0) or 14 times (4:4:4).
MAX_SCANNED_SAMPLES = 600_000_000
# Of several scans libjpeg keeps every coefficient, and what it decodes comes on top:
# 50 megapixels take 150 MB as 4:2:0, 38 take 230 MB as 4:4:4.
MAX_JPEG_BYTES = 230_000_000
COEFFICIENT_BYTES = 2
PIXEL_BYTES = 4

FOLDER = "profile_pics"
# A stored picture never changes: a new one gets a new name.
CACHE_CONTROL = "public, max-age=31536000, immutable"

# Of all texts in a PNG; Python can need four bytes for a letter of them.
PngImagePlugin.MAX_TEXT_MEMORY = 2 * 2**20
# Each warning with a text of its own is remembered for ever, and damaged files make as
# many as they like.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Once it has seen pieces of up to 32 MB, glibc keeps what is freed of them, and with
# pictures of all sizes little can be used again: a flood of them took 100 MB more.
# Pieces of a megabyte go back to the system instead (mallopt(3)).
if sys.platform == "linux":
    # Other C libraries have no such setting.
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1_000_000)
# Pillow warns above this size and raises above twice of it; here both are an error.
Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)


class InvalidImage(Exception):
    """What was uploaded is no picture that can be read to its end."""


class StorageError(Exception):
    """A picture could not be stored or deleted."""


def process_profile_image(content: bytes) -> tuple[bytes, str]:
    """Turn an uploaded JPEG, PNG, GIF or WebP of checked size into an avatar.

    Returns:
        A JPEG of 300 x 300 pixels (RGB, upright, no metadata), and `<uuid4 hex>.jpg`.

    Raises:
        InvalidImage: Pillow cannot read it to its end, it has too many pixels, or it is
            made to take far more time or memory than its pixels need.
    """
    try:
        is_jpeg = content.startswith(JPEG_START)
        picture = _from_jpeg(content) if is_jpeg else _from_others(content)
        return _encode(picture), f"{uuid.uuid4().hex}.jpg"
    # Everything: on damaged files Pillow's decoders raise whatever their parsing runs
    # into (OSError, SyntaxError, struct.error, ValueError, IndexError, zlib.error...).
    # MemoryError too: what keeps to the limits fits, unless the server is out of memory
    # already, and then it is better to refuse one picture than to fail.
    except Exception as error:
        raise InvalidImage(f"{type(error).__name__}: {error}") from error


def _from_jpeg(content: bytes) -> Image.Image:
    segments = list(_segments(content))
    kept_bytes = _coefficient_bytes(segments)
    bare = _InPieces(_without_notes(content, segments))
    with Image.open(bare, formats=("JPEG",)) as image:
        _check_size(image, MAX_JPEG_PIXELS)
        # Twice the size leaves Lanczos enough to work with.
        image.draft(None, (2 * SIZE[0], 2 * SIZE[1]))
        decoded_bytes = PIXEL_BYTES * image.width * image.height
        if kept_bytes + decoded_bytes > MAX_JPEG_BYTES:
            raise InvalidImage("too many coefficients to keep")
        return _avatar(image)


def _from_others(content: bytes) -> Image.Image:
    if sum(map(content.count, PACKED_CHUNKS)) > MAX_PACKED_CHUNKS:
        raise InvalidImage("too many packed chunks")
    with Image.open(_InPieces(content), formats=FORMATS) as image:
        _check_size(image, MAX_PIXELS)
        if image.format == "PNG":
            _check_lines(image)
        if image.format == "WEBP":
            _check_code_sets(image, code_sets(content))
        return _avatar(image)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise InvalidImage(f"{image.width} x {image.height} pixels are too many")


def _check_lines(png: ImageFile.ImageFile) -> None:
    # Not from the header, as there can be several. Pillow's name for what is in the
    # lines, like RGB;16B, has a letter for each channel.
    channels, _, depth = str(png.tile[0].args).partition(";")
    channel_bytes = 2 if depth == "16B" else 1
    if channel_bytes * len(channels) * png.width * png.height > MAX_LINE_BYTES:
        raise InvalidImage("too many bytes in the lines")


def _check_code_sets(webp: Image.Image, count: int) -> None:
    kept_bytes = 2 * PIXEL_BYTES * webp.width * webp.height + CODE_SET_BYTES * count
    if kept_bytes > MAX_WEBP_BYTES:
        raise InvalidImage("too many sets of codes")


class _InPieces(BytesIO):
    """A file that is read in a limited number of pieces."""

    _pieces = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            raise InvalidImage("too many pieces")
        return super().read(size)


class _WebP(WebPImagePlugin.WebPImageFile):
    """A WebP that lets go of its decoder before it makes the picture.

    The decoder keeps the picture twice, and one frame is all that is wanted of it.
    """

    def load_prepare(self) -> None:
        self._decoder = None
        super().load_prepare()


Image.register_open(_WebP.format, _WebP, Image.OPEN[_WebP.format][1])


class _Segment(NamedTuple):
    """A part of a JPEG: its marker, where it begins, and what it says."""

    marker: int
    start: int
    data: bytes


def _segments(jpeg: bytes) -> Iterator[_Segment]:
    """The segments of a JPEG as far as its end, as libjpeg finds them."""
    position = count = 0
    while found := MARKER.search(jpeg, max(position, len(JPEG_START))):
        count += 1
        if count > MAX_SEGMENTS:
            raise InvalidImage("too many segments")
        marker = found[1][0]
        if marker == END:
            return
        length = int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
        position = found.end() + max(length, 2)
        yield _Segment(marker, found.start(), jpeg[found.end() + 2 : position])


def _coefficient_bytes(segments: Iterable[_Segment]) -> int:
    """What a JPEG's coefficients take while it is decoded; 0 if they are not kept.

    Raises:
        InvalidImage: It is of a coding that is not read, or has too many scans.
    """
    frame = next(segment for segment in segments if segment.marker in FRAMES)
    if frame.marker not in CODINGS:
        raise InvalidImage(f"coding {frame.marker:#x}")
    components = _components(frame.data)
    scans = [
        # The component's identifier, and two numbers that do not matter here (B.2.3).
        [samples for name, samples in components if name in scan.data[1:-3:2]]
        for scan in segments
        if scan.marker == SCAN
    ]
    if len(scans) > MAX_SCANS or sum(map(sum, scans)) > MAX_SCANNED_SAMPLES:
        raise InvalidImage("too many scans")
    if frame.marker != PROGRESSIVE and len(scans[0]) == len(components):
        return 0
    return COEFFICIENT_BYTES * sum(samples for _name, samples in components)


def _components(frame: bytes) -> list[tuple[int, int]]:
    """The identifier and the number of samples of each component (A.2.4, B.2.2)."""
    _bits, height, width, _count = struct.unpack_from(">BHHB", frame)
    factors = [
        (name, both >> 4, both & 15)
        for name, both, _table in struct.iter_unpack("BBB", frame[6:])
    ]
    # They are kept in whole units of 8 x 8 times the largest factors.
    across = math.ceil(width / (8 * max(factor for _, factor, _ in factors)))
    down = math.ceil(height / (8 * max(factor for _, _, factor in factors)))
    return [(name, 64 * across * x * down * y) for name, x, y in factors]


def _without_notes(jpeg: bytes, segments: Iterable[_Segment]) -> bytes:
    """The JPEG with those notes only, before its first scan, that are wanted."""
    kept = [JPEG_START]
    wanted = [*WANTED_NOTES]
    for marker, start, data in segments:
        if marker == SCAN:
            return b"".join((*kept, jpeg[start:]))
        if marker in NOTES:
            kind = next(filter(data.startswith, wanted), None)
            if kind is None:
                continue
            wanted.remove(kind)
        kept.append(jpeg[start : start + 4 + len(data)])
    raise InvalidImage("no scan")


def _avatar(image: Image.Image) -> Image.Image:
    _forget_long_notes(image)
    image.load()
    # A PNG can have them behind its pixels too.
    _forget_long_notes(image)
    small = _on_white(_cropped(image))
    # Turning the small picture is the same as turning the large one, as the crop is the
    # square in its middle.
    turn = TURNS.get(_orientation(image))
    return small if turn is None else small.transpose(turn)


def _forget_long_notes(image: Image.Image) -> None:
    """Save the memory they take, and the time to look for the orientation in them."""
    for name, note in [*image.info.items()]:
        if isinstance(note, bytes | str) and len(note) > MAX_NOTE_BYTES:
            del image.info[name]


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    return orientation if isinstance(orientation, int) else 0


def _cropped(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # Lanczos looks at three pixels around, and these count in those of the result.
    margin = math.ceil(3 * side / SIZE[0])
    box = (
        max(math.floor(left) - margin, 0),
        max(math.floor(top) - margin, 0),
        min(math.ceil(left + side) + margin, image.width),
        min(math.ceil(top + side) + margin, image.height),
    )
    # A cheap first step down to three times the size; it cannot be told apart.
    factor = max(side // (3 * SIZE[0]), 1)
    left, top, length = (left - box[0]) / factor, (top - box[1]) / factor, side / factor
    return _reduced(image, box, factor).resize(
        SIZE, Image.Resampling.LANCZOS, box=(left, top, left + length, top + length)
    )


def _reduced(
    image: Image.Image, box: tuple[int, int, int, int], factor: int
) -> Image.Image:
    """A part of the picture, made this many times smaller.

    It is made band by band: the whole picture once more in another mode takes 80 MB.
    """
    left, top, right, bottom = box
    step = BAND_ROWS * factor
    bands = [
        _mixable(image.crop((left, y, right, min(y + step, bottom)))).reduce(factor)
        for y in range(top, bottom, step)
    ]
    height = sum(band.height for band in bands)
    small = Image.new(bands[0].mode, (bands[0].width, height))
    for number, band in enumerate(bands):
        small.paste(band, (0, number * BAND_ROWS))
    return small


def _mixable(image: Image.Image) -> Image.Image:
    """The picture in a mode in which neighbouring pixels can be mixed."""
    if image.mode.startswith("I;16"):
        image = _in_8_bits(image)
    if image.has_transparency_data:
        # Colours count as much as they can be seen.
        return image.convert("RGBA").convert("RGBa")
    if image.mode in ("1", "P"):
        return image.convert("RGB")
    return image


def _in_8_bits(image: Image.Image) -> Image.Image:
    grey = image.point(lambda value: value / 256).convert("L")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.info["transparency"] = transparent // 256
    return grey


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBa":
        return image.convert("RGB")
    background = Image.new("RGBA", image.size, "white")
    background.alpha_composite(image.convert("RGBA"))
    return background.convert("RGB")


def _encode(image: Image.Image) -> bytes:
    output = BytesIO()
    image.save(output, "JPEG", quality=QUALITY, optimize=True)
    return output.getvalue()


def upload_profile_image(content: bytes, filename: str) -> None:
    """Store an avatar where browsers find it. Blocks for some seconds at the most.

    Raises:
        StorageError: It could not be stored, or nobody knows whether it was.
    """
    with _storage_errors():
        if settings.s3_bucket_name is None:
            _write_file(settings.media_dir / FOLDER / filename, content)
        else:
            s3_client().put_object(
                Bucket=settings.s3_bucket_name,
                Key=f"{FOLDER}/{filename}",
                Body=content,
                ContentType="image/jpeg",
                CacheControl=CACHE_CONTROL,
            )


def delete_profile_image(filename: str) -> None:
    """Delete a stored avatar; one that is not there is no error.

    Raises:
        StorageError: It could not be deleted, or nobody knows whether it was.
    """
    with _storage_errors():
        if settings.s3_bucket_name is None:
            (settings.media_dir / FOLDER / filename).unlink(missing_ok=True)
        else:
            s3_client().delete_object(
                Bucket=settings.s3_bucket_name, Key=f"{FOLDER}/{filename}"
            )


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError, OSError) as error:
        raise StorageError(f"{type(error).__name__}: {error}") from error


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.chmod(0o644)
        # This is what makes it visible: nobody is served half a picture.
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


@cache
def s3_session() -> boto3.session.Session:
    """What clients are made from; it has read what boto3 knows of the service."""
    return boto3.session.Session()


@cache
def s3_client() -> Any:
    """The client of the bucket's service; boto3 makes its type at run time."""
    key_id, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    return s3_session().client(
        "s3",
        region_name=settings.s3_region,
        endpoint_url=settings.s3_endpoint_url,
        aws_access_key_id=key_id.get_secret_value() if key_id else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            connect_timeout=2,
            read_timeout=4,
            retries={"mode": "standard", "total_max_attempts": 2},
            # A service under another address seldom has a name for every bucket.
            s3={"addressing_style": "path" if settings.s3_endpoint_url else "virtual"},
        ),
    )
