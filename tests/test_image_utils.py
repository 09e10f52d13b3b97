"""Converting uploads to avatars. All pictures are generated in memory."""

import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageFile, PngImagePlugin

import image_utils
from config import BASE_DIR
from image_decoder import make_avatar
from image_utils import InvalidImage, process_profile_image
from tests.stress.pictures import (
    Make,
    chunk,
    encoded,
    gif,
    large_png,
    many_scans,
    noise,
    png,
    progressive,
)

PHOTO = Path(__file__).with_name("test_image.jpg")

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 180, 60), (30, 40, 220), (255, 255, 255)
NAMES = {RED: "red", GREEN: "green", BLUE: "blue", WHITE: "white"}


def avatar(content: bytes) -> Image.Image:
    """Convert a picture to an avatar and decode it."""
    return Image.open(BytesIO(make_avatar(content)))


def plain(mode: str, color: Any, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Create a picture of one color."""
    return Image.new(mode, size, color)


def palette(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Create a palette picture whose pixels all have index 0, red."""
    image = Image.new("P", size, 0)
    image.putpalette([*RED, *GREEN, *BLUE])
    return image


def color_at(image: Image.Image, x: int, y: int) -> str:
    """Return the name of the nearest color in this file's palette."""
    red, green, blue = image.convert("RGB").getpixel((x, y))  # type: ignore[misc]
    distances = {
        name: abs(red - r) + abs(green - g) + abs(blue - b)
        for (r, g, b), name in NAMES.items()
    }
    return min(distances, key=distances.__getitem__)


def corners(image: Image.Image) -> str:
    """Return the colors of the four quarters, row by row."""
    places = ((60, 60), (240, 60), (60, 240), (240, 240))
    return " ".join(color_at(image, x, y) for x, y in places)


def quarters(size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Create a picture with red and green above blue and white."""
    small = Image.new("RGB", (2, 2))
    small.putdata([RED, GREEN, BLUE, WHITE])
    return small.resize(size, Image.Resampling.NEAREST)


def distance(image: Image.Image, color: tuple[int, int, int]) -> int:
    """Return the largest per-channel difference of any pixel to a color."""
    assert image.mode == "RGB"
    difference = ImageChops.difference(image, Image.new("RGB", image.size, color))
    return max(high for _low, high in difference.getextrema())  # type: ignore[misc]


def segments(jpeg: bytes) -> list[int]:
    """Return the markers of a JPEG before its pixels (ITU-T T.81, annex B)."""
    markers, position = [], 2
    while 0xDA not in markers:
        markers.append(jpeg[position + 1])
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return markers


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: nothing is stored here, and setup is slow."""


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record the size of each picture when its pixels are decoded."""
    sizes = []
    load = ImageFile.ImageFile.load

    def noted(image: ImageFile.ImageFile) -> Any:
        pixels = load(image)
        sizes.append(image.size)
        return pixels

    monkeypatch.setattr(ImageFile.ImageFile, "load", noted)
    return sizes


# Output


def test_avatar_is_a_300_by_300_jpeg() -> None:
    image = avatar(PHOTO.read_bytes())

    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (300, 300))


def test_avatar_is_named_by_random_uuid() -> None:
    _, first = process_profile_image(PHOTO.read_bytes())
    _, second = process_profile_image(PHOTO.read_bytes())

    assert first != second
    assert (UUID(first[:-4]).version, first[-4:]) == (4, ".jpg")
    assert first == f"{UUID(first[:-4]).hex}.jpg"


def test_avatar_has_jpeg_quality_85() -> None:
    expected = Image.open(BytesIO(encoded(plain("RGB", RED), "JPEG", quality=85)))

    image = avatar(PHOTO.read_bytes())

    assert image.quantization == expected.quantization  # type: ignore[attr-defined]


def test_avatar_is_as_sharp_as_lanczos() -> None:
    square = Image.open(PHOTO).crop((80, 0, 560, 480))
    resized = square.resize((300, 300), Image.Resampling.LANCZOS)
    expected = Image.open(BytesIO(encoded(resized, "JPEG", quality=85)))

    image = avatar(PHOTO.read_bytes())

    assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_large_picture_is_downscaled_evenly(mode: str) -> None:
    slope = Image.linear_gradient("L").resize((4000, 3000), Image.Resampling.BICUBIC)
    large = Image.merge(mode, [slope] * len(mode))
    white = Image.new("RGBA", large.size, "white")
    white.alpha_composite(large.convert("RGBA"))
    expected = white.convert("RGB").resize(
        (300, 300), Image.Resampling.LANCZOS, box=(500, 0, 3500, 3000)
    )

    image = avatar(encoded(large, "PNG", compress_level=1))

    difference = ImageChops.difference(image, expected)
    assert max(high for _low, high in difference.getextrema()) <= 3  # type: ignore[misc]


# Input formats


PICTURES = {
    "1 PNG": (encoded(plain("1", 1), "PNG"), WHITE),
    "L PNG": (encoded(plain("L", 90), "PNG"), (90, 90, 90)),
    "LA PNG": (encoded(plain("LA", (90, 255)), "PNG"), (90, 90, 90)),
    "P PNG": (encoded(palette(), "PNG"), RED),
    "RGB PNG": (encoded(plain("RGB", BLUE), "PNG"), BLUE),
    "RGBA PNG": (encoded(plain("RGBA", (*BLUE, 255)), "PNG"), BLUE),
    "interlaced PNG": (
        png((9, 9), depth=8, color_type=2, row=bytes(BLUE), interlaced=True),
        BLUE,
    ),
    "I;16 PNG": (encoded(plain("I;16", 90 * 257), "PNG"), (90, 90, 90)),
    "large I;16 PNG": (
        encoded(plain("I;16", 90 * 257, (2000, 2000)), "PNG"),
        (90, 90, 90),
    ),
    "16-bit RGB PNG": (
        png((4, 4), depth=16, color_type=2, row=b"\xdc\0\x1e\0\x1e\0" * 4),
        RED,
    ),
    "16-bit LA PNG": (
        png((4, 4), depth=16, color_type=4, row=b"\x5a\0\xff\xff" * 4),
        (90, 90, 90),
    ),
    "16-bit RGBA PNG": (
        png((4, 4), depth=16, color_type=6, row=b"\xdc\0\x1e\0\x1e\0\xff\xff" * 4),
        RED,
    ),
    "2-bit L PNG": (png((4, 4), depth=2, color_type=0, row=b"\xff"), WHITE),
    "animated PNG": (
        encoded(
            plain("RGB", RED),
            "PNG",
            save_all=True,
            append_images=[plain("RGB", BLUE)],
        ),
        RED,
    ),
    "L JPEG": (encoded(plain("L", 90), "JPEG"), (90, 90, 90)),
    "RGB JPEG": (encoded(plain("RGB", GREEN), "JPEG"), GREEN),
    "progressive JPEG": (encoded(plain("RGB", GREEN), "JPEG", progressive=True), GREEN),
    "CMYK JPEG": (encoded(plain("CMYK", (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "MPO": (
        encoded(
            plain("RGB", RED),
            "MPO",
            save_all=True,
            append_images=[plain("RGB", BLUE)],
        ),
        RED,
    ),
    "GIF": (encoded(palette(), "GIF"), RED),
    "animated GIF": (
        encoded(
            plain("RGB", RED), "GIF", save_all=True, append_images=[plain("RGB", BLUE)]
        ),
        RED,
    ),
    "WebP": (encoded(plain("RGB", GREEN), "WEBP"), GREEN),
    "lossless WebP": (encoded(plain("RGBA", (*RED, 255)), "WEBP", lossless=True), RED),
    "animated WebP": (
        encoded(
            plain("RGB", RED),
            "WEBP",
            lossless=True,
            save_all=True,
            append_images=[plain("RGB", BLUE)],
        ),
        RED,
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_color_is_kept_in_every_mode(name: str) -> None:
    content, color = PICTURES[name]

    image = avatar(content)

    assert image.size == (300, 300)
    assert distance(image, color) <= 8


TRANSPARENT = {
    "RGBA PNG": encoded(plain("RGBA", (*RED, 0)), "PNG"),
    "LA PNG": encoded(plain("LA", (0, 0)), "PNG"),
    "P PNG with one transparent color": encoded(palette(), "PNG", transparency=0),
    "P PNG with an alpha for each color": encoded(
        palette(), "PNG", transparency=b"\0\xff\x80"
    ),
    "RGB PNG with a transparent color": encoded(
        plain("RGB", RED), "PNG", transparency=RED
    ),
    "L PNG with a transparent grey": encoded(plain("L", 90), "PNG", transparency=90),
    "1 PNG with a transparent black": encoded(plain("1", 0), "PNG", transparency=0),
    "I;16 PNG with a transparent grey": png(
        (4, 4),
        depth=16,
        color_type=0,
        row=b"\x40\x40" * 4,
        extra=chunk(b"tRNS", b"\x40\x40"),
    ),
    "16-bit LA PNG": png((4, 4), depth=16, color_type=4, row=bytes(16)),
    "16-bit RGBA PNG": png((4, 4), depth=16, color_type=6, row=bytes(32)),
    "GIF": encoded(palette(), "GIF", transparency=0),
    "lossy WebP": encoded(plain("RGBA", (*RED, 0)), "WEBP"),
    "lossless WebP": encoded(plain("RGBA", (*RED, 0)), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_pixels_become_white(name: str) -> None:
    image = avatar(TRANSPARENT[name])

    assert distance(image, WHITE) <= 1


def test_half_transparent_pixels_are_blended_with_white() -> None:
    image = avatar(encoded(plain("RGBA", (0, 0, 0, 128)), "PNG"))

    assert distance(image, (127, 127, 127)) <= 2


def test_hidden_pixels_do_not_bleed_into_edges() -> None:
    hidden = plain("RGBA", (0, 0, 0, 0), (600, 600))
    hidden.paste(WHITE, (0, 0, 300, 600))

    image = avatar(encoded(hidden, "PNG"))

    assert distance(image, WHITE) <= 1


@pytest.mark.parametrize(
    ("orientation", "seen"),
    # Exif 2.32, section 4.6.4, tag 0x0112: the visual side of row 0 and column 0.
    [
        pytest.param(1, "red green blue white", id="top left"),
        pytest.param(2, "green red white blue", id="top right"),
        pytest.param(3, "white blue green red", id="bottom right"),
        pytest.param(4, "blue white red green", id="bottom left"),
        pytest.param(5, "red blue green white", id="left top"),
        pytest.param(6, "blue red white green", id="right top"),
        pytest.param(7, "white green blue red", id="right bottom"),
        pytest.param(8, "green white red blue", id="left bottom"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int, seen: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation

    image = avatar(encoded(quarters(), kind, exif=exif))

    assert corners(image) == seen


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation

    image = avatar(encoded(quarters(), "JPEG", exif=exif))

    assert corners(image) == "red green blue white"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(b"Exif\0\0nonsense", id="no TIFF"),
        pytest.param(b"Exif\0\0MM\0*\0\0\0\x08\0\x05aaaa", id="cut off"),
        pytest.param(
            b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\4six\0\0\0\0\0",
            id="orientation in letters",
        ),
    ],
)
def test_picture_with_broken_exif_is_accepted(kind: str, exif: bytes) -> None:
    image = avatar(encoded(quarters(), kind, exif=exif))

    assert corners(image) == "red green blue white"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_xmp_orientation_is_used_without_exif(kind: str) -> None:
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())

    image = avatar(encoded(quarters(), kind, xmp=xmp, pnginfo=info))

    assert corners(image) == "blue red white green"


def test_exif_after_png_pixels_is_used() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encoded(quarters(), "PNG")

    image = avatar(
        content[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + chunk(b"IEND", b"")
    )

    assert corners(image) == "blue red white green"


# Metadata


def full_exif() -> Image.Exif:
    """Return the Exif data that a phone writes, including the location."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Secret camera"
    exif[ExifTags.Base.Artist] = "Secret person"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    return exif


def text_chunks() -> PngImagePlugin.PngInfo:
    """Return text chunks of every kind that a PNG can have."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "Secret text")
    info.add_text("Author", "Secret person", zip=True)
    info.add_itxt("XML:com.adobe.xmp", "<x>Secret XMP</x>")
    return info


ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta>Secret XMP</x:xmpmeta>"
TALKATIVE = {
    "JPEG": encoded(
        quarters(),
        "JPEG",
        exif=full_exif(),
        icc_profile=ICC,
        comment=b"Secret comment",
        xmp=XMP,
    ),
    "PNG": encoded(
        quarters(), "PNG", exif=full_exif(), icc_profile=ICC, pnginfo=text_chunks()
    ),
    "GIF": encoded(quarters(), "GIF", comment=b"Secret comment"),
    "WebP": encoded(quarters(), "WEBP", exif=full_exif(), icc_profile=ICC, xmp=XMP),
    "MPO": encoded(
        quarters(),
        "MPO",
        exif=full_exif(),
        save_all=True,
        append_images=[plain("RGB", BLUE)],
    ),
}


@pytest.mark.parametrize("name", TALKATIVE)
def test_avatar_has_no_metadata(name: str) -> None:
    picture = make_avatar(TALKATIVE[name])

    # APP0 is the JFIF header, which only has a version.
    assert set(segments(picture)) == {0xE0, 0xDB, 0xC0, 0xC4, 0xDA}
    assert b"Secret" not in picture
    assert not Image.open(BytesIO(picture)).getexif()


# Cropping


@pytest.mark.parametrize(
    ("size", "middle"),
    [((900, 300), (300, 0, 600, 300)), ((300, 900), (0, 300, 300, 600))],
    ids=["wide", "tall"],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_avatar_is_center_cropped(
    kind: str, size: tuple[int, int], middle: tuple[int, int, int, int]
) -> None:
    image = plain("RGB", RED, size)
    image.paste(GREEN, middle)

    picture = avatar(encoded(image, kind, quality=95))

    # JPEG blurs edges, so some border pixels may differ.
    assert distance(picture.crop((16, 16, 284, 284)), GREEN) <= 8


def test_one_pixel_picture_is_enlarged() -> None:
    image = avatar(encoded(plain("RGB", RED, (1, 1)), "PNG"))

    assert image.size == (300, 300)
    assert distance(image, RED) <= 8


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)], ids=["tall", "wide"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_one_pixel_wide_picture_becomes_a_square(
    kind: str, size: tuple[int, int]
) -> None:
    image = avatar(encoded(plain("RGB", RED, size), kind))

    assert image.size == (300, 300)
    assert distance(image, RED) <= 8


# Size limits


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_picture_of_20_megapixels_is_accepted(kind: str) -> None:
    content = encoded(plain("L", 90, (5000, 4000)), kind, method=0)

    image = avatar(content)

    assert distance(image, (90, 90, 90)) <= 8


LARGE_PICTURES: dict[str, Make] = {
    "JPEG": lambda: encoded(plain("L", 90, (10_000, 5000)), "JPEG"),
    "4:4:4 JPEG": progressive("RGB", (8660, 5773)),
    "CMYK JPEG": progressive("CMYK", (8660, 5773)),
    "wide CMYK JPEG": progressive("CMYK", (65_000, 769)),
    "16-bit PNG": lambda: large_png(16, 6),
    "thin PNG": lambda: large_png(8, 6, size=(1, 20_000_000)),
}


@pytest.mark.parametrize("name", LARGE_PICTURES)
def test_large_picture_is_accepted(name: str) -> None:
    picture, _ = process_profile_image(LARGE_PICTURES[name]())

    assert Image.open(BytesIO(picture)).size == (300, 300)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            png((5000, 4001), depth=1, color_type=0, row=bytes(625)), id="PNG"
        ),
        pytest.param(gif((5000, 4001)), id="GIF"),
        pytest.param(
            encoded(plain("L", 90, (5000, 4001)), "WEBP", method=0), id="WebP"
        ),
        pytest.param(encoded(plain("L", 90, (10_000, 5001)), "JPEG"), id="JPEG"),
    ],
)
def test_too_large_picture_is_rejected_before_decoding(
    content: bytes, loads: list[tuple[int, int]]
) -> None:
    with pytest.raises(ValueError, match="too many"):
        make_avatar(content)

    assert loads == []


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        pytest.param((4000, 3000), (1000, 750), id="12 megapixels"),
        # Half the size is enough, and full size takes too much memory.
        pytest.param((6000, 4000), (750, 500), id="24 megapixels"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_large_jpeg_is_decoded_at_reduced_scale(
    kind: str,
    size: tuple[int, int],
    decoded: tuple[int, int],
    loads: list[tuple[int, int]],
) -> None:
    content = encoded(plain("RGB", RED, size), kind)
    loads.clear()

    make_avatar(content)

    assert set(loads) == {decoded}


class TestDecoder:
    """The process that decodes pictures."""

    def test_too_much_cpu_time_is_invalid(self) -> None:
        content = many_scans((8660, 5773), 1000)

        with pytest.raises(InvalidImage, match=f"{-signal.SIGXCPU}"):
            process_profile_image(content)

        assert process_profile_image(PHOTO.read_bytes())

    @pytest.mark.skipif(sys.platform != "linux", reason="macOS has no such limit")
    def test_too_much_memory_is_invalid(self) -> None:
        program = "import image_decoder; image_decoder.make_avatar = lambda _: "
        program += "bytearray(2**29); image_decoder.main()"

        decoder = run_python(program)

        assert decoder.returncode == os.EX_DATAERR
        assert b"MemoryError" in decoder.stderr

    def test_imports_only_what_it_needs(self) -> None:
        decoder = run_python("import image_decoder, sys; print(*sys.modules)")

        assert not {b"boto3", b"config", b"fastapi"} & {*decoder.stdout.split()}

    def test_server_does_not_import_pillow(self) -> None:
        server = run_python("import main, sys; print(*sys.modules)")

        assert b"image_utils" in server.stdout.split()
        assert b"PIL" not in server.stdout.split()

    def test_picture_metadata_is_not_printed(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        process_profile_image(encoded(quarters(), "JPEG", exif=b"Exif\0\0nonsense"))

        assert capfd.readouterr() == ("", "")

    def test_busy_machine_is_a_timeout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(image_utils, "DECODE_TIMEOUT", 0.001)

        with pytest.raises(TimeoutError):
            process_profile_image(PHOTO.read_bytes())

    @pytest.mark.parametrize(
        ("program", "error"),
        [
            ("import os; os.kill(os.getpid(), 11)", InvalidImage),
            ("import os; os.kill(os.getpid(), 9)", ChildProcessError),
            ("import missing", ChildProcessError),
        ],
        ids=["crashed", "killed", "not installed"],
    )
    def test_only_errors_caused_by_picture_are_invalid(
        self, monkeypatch: pytest.MonkeyPatch, program: str, error: type[Exception]
    ) -> None:
        monkeypatch.setattr(image_utils, "DECODER", (sys.executable, "-c", program))

        with pytest.raises(error):
            process_profile_image(PHOTO.read_bytes())


def run_python(program: str) -> subprocess.CompletedProcess[bytes]:
    """Run a Python program in another process."""
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, cwd=BASE_DIR, input=b"", capture_output=True, check=False
    )


# Invalid pictures


UNWANTED = {
    "nothing": b"",
    "a text": b"not a picture",
    "HTML": b"<!doctype html><script>alert(1)</script>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "PDF": encoded(plain("RGB", RED), "PDF"),
    "EPS": encoded(plain("RGB", RED), "EPS"),
    "BMP": encoded(plain("RGB", RED), "BMP"),
    "TIFF": encoded(plain("RGB", RED), "TIFF"),
    "ICO": encoded(plain("RGB", RED), "ICO"),
    "PPM": encoded(plain("RGB", RED), "PPM"),
    "TGA": encoded(plain("RGB", RED), "TGA"),
    "JPEG 2000": encoded(plain("RGB", RED), "JPEG2000"),
    "the first bytes of a JPEG": b"\xff\xd8\xff\xe0",
    "the first bytes of a PNG": b"\x89PNG\r\n\x1a\n",
    "the first bytes of a GIF": b"GIF89a",
    "the first bytes of a WebP": b"RIFF\x24\0\0\0WEBPVP8 ",
}


@pytest.mark.parametrize("name", UNWANTED)
def test_other_file_types_are_rejected(name: str) -> None:
    with pytest.raises(InvalidImage):
        process_profile_image(UNWANTED[name])


WHOLE = {
    "JPEG": encoded(noise((160, 120)), "JPEG"),
    "progressive JPEG": encoded(noise((160, 120)), "JPEG", progressive=True),
    "PNG": encoded(noise((160, 120)), "PNG"),
    "GIF": encoded(noise((160, 120)), "GIF"),
    "WebP": encoded(noise((160, 120)), "WEBP"),
    "lossless WebP": encoded(noise((160, 120)), "WEBP", lossless=True),
}


@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99])
@pytest.mark.parametrize("name", WHOLE)
def test_truncated_picture_is_rejected(name: str, percent: int) -> None:
    content = WHOLE[name][: len(WHOLE[name]) * percent // 100]

    with pytest.raises(InvalidImage):
        process_profile_image(content)
