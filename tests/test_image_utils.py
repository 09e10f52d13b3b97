"""How uploads become avatars. Every picture here is made in memory."""

import random
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageFile, PngImagePlugin

from config import BASE_DIR
from image_utils import InvalidImage, process_profile_image
from tests.torture.pictures import (
    CMYK,
    COLOUR,
    COLOUR_INDEXING,
    GREY,
    PREDICTOR,
    REAL_ZEROS,
    SOF0,
    SOS,
    SUBTRACT_GREEN,
    TOLD_ZEROS,
    USUAL_SCANS,
    YCC_420,
    YCC_444,
    Scan,
    chunk,
    costly_scans,
    encoded,
    gif,
    jpeg,
    lossless,
    lossless_alpha,
    lossless_frame,
    many_sets,
    noise,
    number,
    packed_texts,
    png,
    png_file,
    segment,
    sequential,
    tiny_png,
    transform,
    vp8l,
    webp,
)

PHOTO = Path(__file__).with_name("test_image.jpg")

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 180, 60), (30, 40, 220), (255, 255, 255)
NAMES = {RED: "red", GREEN: "green", BLUE: "blue", WHITE: "white"}


def avatar(content: bytes) -> Image.Image:
    """What an upload becomes, decoded again."""
    return Image.open(BytesIO(process_profile_image(content)[0]))


def plain(mode: str, colour: Any, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture of one colour."""
    return Image.new(mode, size, colour)


def palette(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A palette picture: index 0, all over it, is red."""
    image = Image.new("P", size, 0)
    image.putpalette([*RED, *GREEN, *BLUE])
    return image


def colour_at(image: Image.Image, x: int, y: int) -> str:
    """The name of the nearest colour of this file's palette."""
    red, green, blue = image.convert("RGB").getpixel((x, y))  # type: ignore[misc]
    distances = {
        name: abs(red - r) + abs(green - g) + abs(blue - b)
        for (r, g, b), name in NAMES.items()
    }
    return min(distances, key=distances.__getitem__)


def corners(image: Image.Image) -> str:
    """The colours of the four quarters, row by row."""
    places = ((60, 60), (240, 60), (60, 240), (240, 240))
    return " ".join(colour_at(image, x, y) for x, y in places)


def quarters(size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Red and green above, blue and white below."""
    small = Image.new("RGB", (2, 2))
    small.putdata([RED, GREEN, BLUE, WHITE])
    return small.resize(size, Image.Resampling.NEAREST)


def distance(image: Image.Image, colour: tuple[int, int, int]) -> int:
    """How far the farthest pixel is from a colour, in one channel."""
    assert image.mode == "RGB"
    difference = ImageChops.difference(image, Image.new("RGB", image.size, colour))
    return max(high for _low, high in difference.getextrema())  # type: ignore[misc]


def segments(jpeg: bytes) -> list[int]:
    """The markers of a JPEG up to its pixels (ITU-T T.81, annex B)."""
    markers, position = [], 2
    while SOS not in markers:
        markers.append(jpeg[position + 1])
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return markers


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Nothing is stored here, and making a bucket takes longer than these tests do."""


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The size of every picture whose pixels are decoded, as it is decoded."""
    sizes = []
    load = ImageFile.ImageFile.load

    def noted(image: ImageFile.ImageFile) -> Any:
        pixels = load(image)
        sizes.append(image.size)
        return pixels

    monkeypatch.setattr(ImageFile.ImageFile, "load", noted)
    return sizes


# What comes out


def test_avatar_is_a_jpeg_of_300_by_300() -> None:
    image = avatar(PHOTO.read_bytes())

    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (300, 300))


def test_avatar_is_named_by_a_random_uuid() -> None:
    _, first = process_profile_image(PHOTO.read_bytes())
    _, second = process_profile_image(PHOTO.read_bytes())

    assert first != second
    assert (UUID(first[:-4]).version, first[-4:]) == (4, ".jpg")
    assert first == f"{UUID(first[:-4]).hex}.jpg"


def test_avatar_has_quality_85() -> None:
    expected = Image.open(BytesIO(encoded(plain("RGB", RED), "JPEG", quality=85)))

    image = avatar(PHOTO.read_bytes())

    assert image.quantization == expected.quantization  # type: ignore[attr-defined]


def test_avatar_is_as_sharp_as_lanczos_makes_it() -> None:
    resized = Image.open(PHOTO).resize(
        (300, 300), Image.Resampling.LANCZOS, box=(80, 0, 560, 480)
    )
    expected = Image.open(BytesIO(encoded(resized, "JPEG", quality=85)))

    image = avatar(PHOTO.read_bytes())

    assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_large_picture_is_reduced_as_evenly_as_a_small_one(mode: str) -> None:
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


# Which pictures are read


PICTURES = {
    "1 PNG": (encoded(plain("1", 1), "PNG"), WHITE),
    "L PNG": (encoded(plain("L", 90), "PNG"), (90, 90, 90)),
    "LA PNG": (encoded(plain("LA", (90, 255)), "PNG"), (90, 90, 90)),
    "P PNG": (encoded(palette(), "PNG"), RED),
    "RGB PNG": (encoded(plain("RGB", BLUE), "PNG"), BLUE),
    "RGBA PNG": (encoded(plain("RGBA", (*BLUE, 255)), "PNG"), BLUE),
    "interlaced PNG": (
        png((9, 9), depth=8, colour_type=2, row=bytes(BLUE), interlaced=True),
        BLUE,
    ),
    "I;16 PNG": (encoded(plain("I;16", 90 * 257), "PNG"), (90, 90, 90)),
    "large I;16 PNG": (
        encoded(plain("I;16", 90 * 257, (2000, 2000)), "PNG"),
        (90, 90, 90),
    ),
    "16-bit RGB PNG": (
        png((4, 4), depth=16, colour_type=2, row=b"\xdc\0\x1e\0\x1e\0" * 4),
        RED,
    ),
    "16-bit LA PNG": (
        png((4, 4), depth=16, colour_type=4, row=b"\x5a\0\xff\xff" * 4),
        (90, 90, 90),
    ),
    "16-bit RGBA PNG": (
        png((4, 4), depth=16, colour_type=6, row=b"\xdc\0\x1e\0\x1e\0\xff\xff" * 4),
        RED,
    ),
    "2-bit L PNG": (png((4, 4), depth=2, colour_type=0, row=b"\xff"), WHITE),
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
def test_picture_of_any_kind_keeps_its_colour(name: str) -> None:
    content, colour = PICTURES[name]

    image = avatar(content)

    assert image.size == (300, 300)
    assert distance(image, colour) <= 8


TRANSPARENT = {
    "RGBA PNG": encoded(plain("RGBA", (*RED, 0)), "PNG"),
    "LA PNG": encoded(plain("LA", (0, 0)), "PNG"),
    "P PNG with one transparent colour": encoded(palette(), "PNG", transparency=0),
    "P PNG with an alpha for each colour": encoded(
        palette(), "PNG", transparency=b"\0\xff\x80"
    ),
    "RGB PNG with a transparent colour": encoded(
        plain("RGB", RED), "PNG", transparency=RED
    ),
    "L PNG with a transparent grey": encoded(plain("L", 90), "PNG", transparency=90),
    "1 PNG with a transparent black": encoded(plain("1", 0), "PNG", transparency=0),
    "I;16 PNG with a transparent grey": png(
        (4, 4),
        depth=16,
        colour_type=0,
        row=b"\x40\x40" * 4,
        extra=chunk(b"tRNS", b"\x40\x40"),
    ),
    "16-bit LA PNG": png((4, 4), depth=16, colour_type=4, row=bytes(16)),
    "16-bit RGBA PNG": png((4, 4), depth=16, colour_type=6, row=bytes(32)),
    "GIF": encoded(palette(), "GIF", transparency=0),
    "lossy WebP": encoded(plain("RGBA", (*RED, 0)), "WEBP"),
    "lossless WebP": encoded(plain("RGBA", (*RED, 0)), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_becomes_white(name: str) -> None:
    image = avatar(TRANSPARENT[name])

    assert distance(image, WHITE) <= 1


def test_what_is_half_transparent_is_mixed_with_white() -> None:
    image = avatar(encoded(plain("RGBA", (0, 0, 0, 128)), "PNG"))

    assert distance(image, (127, 127, 127)) <= 2


def test_edge_of_a_cut_out_picture_keeps_no_trace_of_what_is_hidden() -> None:
    hidden = plain("RGBA", (0, 0, 0, 0), (600, 600))
    hidden.paste(WHITE, (0, 0, 300, 600))

    image = avatar(encoded(hidden, "PNG"))

    assert distance(image, WHITE) <= 1


@pytest.mark.parametrize(
    ("orientation", "seen"),
    # Exif 2.32, section 4.6.4, tag 0x0112: where row 0 and column 0 are, visually.
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
def test_picture_is_turned_upright(kind: str, orientation: int, seen: str) -> None:
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
def test_picture_with_broken_exif_is_still_a_picture(exif: bytes) -> None:
    image = avatar(encoded(quarters(), "JPEG", exif=exif))

    assert corners(image) == "red green blue white"


def test_orientation_is_found_behind_other_notes() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encoded(quarters(), "JPEG", exif=exif)

    image = avatar(content[:2] + segment(0xE2, b"x") + segment(0xFE, b"") + content[2:])

    assert corners(image) == "blue red white green"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_in_xmp_counts_where_exif_has_none(kind: str) -> None:
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())

    image = avatar(encoded(quarters(), kind, xmp=xmp, pnginfo=info))

    assert corners(image) == "blue red white green"


def test_second_exif_of_a_jpeg_is_ignored() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encoded(quarters(), "JPEG")
    notes = [segment(0xE1, exif.tobytes()), segment(0xE1, b"Exif\0\0" + bytes(60_000))]

    image = avatar(content[:2] + b"".join(notes) + content[2:])

    assert corners(image) == "blue red white green"


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        pytest.param(100, "blue red white green", id="short"),
        # More than a JPEG could hold, and of no use but to keep the server busy.
        pytest.param(2**16, "red green blue white", id="long"),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_counts_unless_it_is_very_long(kind: str, size: int, seen: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.MakerNote] = bytes(size)

    image = avatar(encoded(quarters(), kind, exif=exif))

    assert corners(image) == seen


def test_exif_counts_behind_the_pixels_of_a_png_too() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encoded(quarters(), "PNG")

    image = avatar(
        content[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + chunk(b"IEND", b"")
    )

    assert corners(image) == "blue red white green"


def test_broken_exif_leaves_nothing_in_the_log_or_in_memory(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x0f\0\x02\0\0\xff\xff\0\0\0\x08"
    file = tmp_path / "picture"
    file.write_bytes(encoded(quarters(), "JPEG", exif=exif))
    # In a process of its own: here every warning is an error.
    program = (
        "import pathlib, sys, image_utils, PIL.TiffImagePlugin as plugin\n"
        "image_utils.process_profile_image(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "print({*getattr(plugin, '__warningregistry__', {})} - {'version'})"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        cwd=BASE_DIR,
        capture_output=True,
        check=True,
        text=True,
    )

    assert (done.stdout, done.stderr) == ("set()\n", "")


# What is left out


def full_exif() -> Image.Exif:
    """What a telephone writes into a photo, its place included."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Secret camera"
    exif[ExifTags.Base.Artist] = "Secret person"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    return exif


def text_chunks() -> PngImagePlugin.PngInfo:
    """Text of every kind that a PNG can carry."""
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
    picture, _ = process_profile_image(TALKATIVE[name])

    # APP0 is the JFIF header, which tells a version and nothing else.
    assert set(segments(picture)) == {0xE0, 0xDB, 0xC0, 0xC4, SOS}
    assert b"Secret" not in picture
    assert not Image.open(BytesIO(picture)).getexif()


# What is cut off


@pytest.mark.parametrize(
    ("size", "middle"),
    [((900, 300), (300, 0, 600, 300)), ((300, 900), (0, 300, 300, 600))],
    ids=["wide", "tall"],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_avatar_is_the_middle_of_the_picture(
    kind: str, size: tuple[int, int], middle: tuple[int, int, int, int]
) -> None:
    image = plain("RGB", RED, size)
    image.paste(GREEN, middle)

    picture = avatar(encoded(image, kind, quality=95))

    # JPEG smears across the edge, so some pixels at the border may be off.
    assert distance(picture.crop((16, 16, 284, 284)), GREEN) <= 8


def test_picture_of_one_pixel_is_enlarged() -> None:
    image = avatar(encoded(plain("RGB", RED, (1, 1)), "PNG"))

    assert image.size == (300, 300)
    assert distance(image, RED) <= 8


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)], ids=["tall", "wide"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_picture_as_thin_as_a_line_becomes_a_square(
    kind: str, size: tuple[int, int]
) -> None:
    image = avatar(encoded(plain("RGB", RED, size), kind))

    assert image.size == (300, 300)
    assert distance(image, RED) <= 8


# How large a picture may be


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_picture_of_20_megapixels_is_accepted(kind: str) -> None:
    content = encoded(plain("L", 90, (5000, 4000)), kind, method=0)

    image = avatar(content)

    assert distance(image, (90, 90, 90)) <= 8


def test_jpeg_of_50_megapixels_is_accepted() -> None:
    content = encoded(plain("L", 90, (10_000, 5000)), "JPEG")

    image = avatar(content)

    assert distance(image, (90, 90, 90)) <= 8


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            png((5000, 4001), depth=1, colour_type=0, row=bytes(625)), id="PNG"
        ),
        pytest.param(gif((5000, 4001)), id="GIF"),
        pytest.param(
            encoded(plain("L", 90, (5000, 4001)), "WEBP", method=0), id="WebP"
        ),
        pytest.param(encoded(plain("L", 90, (10_000, 5001)), "JPEG"), id="JPEG"),
        pytest.param(gif((65_535, 65_535)), id="GIF with the largest screen there is"),
        pytest.param(
            tiny_png(size=(2**31 - 1, 2**31 - 1)),
            id="PNG of the largest size there is",
        ),
    ],
)
def test_larger_picture_is_refused_before_it_is_decoded(
    content: bytes, loads: list[tuple[int, int]]
) -> None:
    with pytest.raises(InvalidImage):
        process_profile_image(content)

    assert loads == []


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_large_jpeg_is_decoded_at_a_reduced_scale(
    kind: str, loads: list[tuple[int, int]]
) -> None:
    content = encoded(plain("RGB", RED, (6000, 4000)), kind)
    loads.clear()

    process_profile_image(content)

    assert set(loads) == {(1500, 1000)}


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**7))), id="zTXt"),
        pytest.param(chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**7))), id="iCCP"),
        pytest.param(
            chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(10**7))), id="iTXt"
        ),
        pytest.param(
            chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**6))) * 100,
            id="many zTXt",
        ),
        pytest.param(
            chunk(b"zTXt", b"\0\0" + zlib.compress(bytes(10**6))) * 100,
            id="many zTXt without a keyword",
        ),
        pytest.param(
            chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**6))) * 100,
            id="many iCCP",
        ),
        pytest.param(packed_texts(3), id="iTXt of rare letters"),
    ],
)
def test_png_that_unpacks_to_far_more_than_its_pixels_is_refused(extra: bytes) -> None:
    content = png((4, 4), depth=8, colour_type=0, row=bytes(4), extra=extra)

    with pytest.raises(InvalidImage):
        process_profile_image(content)


def png_header(size: tuple[int, int], depth: int, colour_type: int) -> bytes:
    """What a PNG says of itself (ISO 15948, section 11.2.2)."""
    return struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png_file(png_header((4001, 3125), 16, 6), b""), id="16-bit RGBA"),
        pytest.param(png_file(png_header((5000, 3334), 16, 2), b""), id="16-bit RGB"),
        pytest.param(
            png_file(
                png_header((1, 1), 8, 0),
                b"",
                chunk(b"IHDR", png_header((5000, 4000), 16, 6)),
            ),
            id="16-bit RGBA by a second header",
        ),
    ],
)
def test_png_with_more_than_100_megabytes_in_its_lines_is_refused(
    content: bytes, loads: list[tuple[int, int]]
) -> None:
    with pytest.raises(InvalidImage, match="in the lines"):
        process_profile_image(content)

    assert loads == []


@pytest.mark.parametrize(
    ("size", "colour_type"),
    [
        pytest.param((4000, 3125), 6, id="16-bit RGBA"),
        pytest.param((5000, 4000), 4, id="16-bit LA"),
    ],
)
def test_png_with_no_more_than_that_is_accepted(
    size: tuple[int, int], colour_type: int
) -> None:
    image = avatar(png(size, depth=16, colour_type=colour_type, row=b"\xff"))

    assert distance(image, WHITE) <= 1


TRANSFORMS = {
    "no transform": "",
    "a predictor": transform(PREDICTOR, TOLD_ZEROS),
    "a transform of colours": transform(COLOUR, TOLD_ZEROS),
    "a transform of green": "1" + number(SUBTRACT_GREEN, 2),
    "a palette": "1" + number(COLOUR_INDEXING, 2) + number(255, 8) + TOLD_ZEROS,
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("make", [lossless, lossless_alpha, lossless_frame])
def test_webp_with_very_many_sets_of_codes_is_refused(
    make: Any, name: str, loads: list[tuple[int, int]]
) -> None:
    size = (512, 512)
    sets = many_sets(size, 2**14, block_bits=2, transforms=TRANSFORMS[name])

    with pytest.raises(InvalidImage, match="sets of codes"):
        process_profile_image(make(size, sets))

    assert loads == []


@pytest.mark.parametrize(
    ("size", "block_bits", "sets"),
    [
        pytest.param((5000, 4000), 7, 1280, id="20 megapixels"),
        pytest.param((3264, 3264), 6, 2601, id="10 megapixels"),
    ],
)
def test_webp_with_as_many_sets_of_codes_as_encoders_make_is_accepted(
    size: tuple[int, int], block_bits: int, sets: int
) -> None:
    image = avatar(lossless(size, many_sets(size, sets, block_bits=block_bits)))

    assert image.size == (300, 300)


LARGE_JPEG = (8660, 5773)


@pytest.mark.parametrize("count", [101, 1000])
def test_jpeg_with_very_many_scans_is_refused(count: int) -> None:
    # Each scan costs 14 bytes and a pass over every block: on 50 megapixels 5 MB of
    # them would keep a worker busy for a quarter of an hour.
    content = jpeg((512, 512), GREY, costly_scans(count))

    with pytest.raises(InvalidImage):
        process_profile_image(content)


def test_scans_behind_a_marker_without_meaning_count_too() -> None:
    restarts = segment(0xDD, b"\0\1")
    content = jpeg((512, 512), GREY, costly_scans(1000)[:200], before=restarts)
    start = content.index(b"\xff\xda", content.index(b"\xff\xda") + 1)

    # Where libjpeg looks for a restart marker it passes over this one, but not over
    # what would be its length.
    content = content[:start] + b"\xff\x02\xff\xff" + content[start:]

    with pytest.raises(InvalidImage):
        process_profile_image(content)


def test_jpeg_with_as_many_scans_as_encoders_make_is_accepted() -> None:
    image = avatar(jpeg((512, 512), GREY, costly_scans(20)))

    assert image.size == (300, 300)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            jpeg(LARGE_JPEG, YCC_420, USUAL_SCANS), id="50 megapixels, progressive"
        ),
        pytest.param(
            jpeg((6000, 4000), YCC_444, USUAL_SCANS), id="24, progressive, 4:4:4"
        ),
        pytest.param(
            jpeg(
                (5000, 4000), YCC_420, map(sequential, ((0,), (1,), (2,))), coding=SOF0
            ),
            id="20, a scan for each component",
        ),
        pytest.param(
            jpeg(LARGE_JPEG, CMYK, [sequential(range(4))], coding=SOF0),
            id="50, baseline, CMYK",
        ),
    ],
)
def test_large_jpeg_as_encoders_make_it_is_accepted(content: bytes) -> None:
    image = avatar(content)

    assert image.size == (300, 300)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(jpeg(LARGE_JPEG, YCC_444, [Scan((0, 1, 2))]), id="4:4:4"),
        pytest.param(
            jpeg(LARGE_JPEG, YCC_444, map(sequential, ((0,), (1,), (2,))), coding=SOF0),
            id="a scan for each component",
        ),
        pytest.param(
            jpeg(LARGE_JPEG, YCC_444, [sequential((0,))], coding=SOF0),
            id="a scan for the first component only",
        ),
        pytest.param(
            jpeg((1199, 41_701), YCC_420, [Scan((0, 1, 2))]),
            id="too thin for a reduced scale",
        ),
        pytest.param(jpeg(LARGE_JPEG, GREY, costly_scans(13)), id="13 scans"),
    ],
)
def test_jpeg_that_takes_more_than_its_pixels_need_is_refused(
    content: bytes, loads: list[tuple[int, int]]
) -> None:
    with pytest.raises(InvalidImage):
        process_profile_image(content)

    assert loads == []


@pytest.mark.parametrize(
    "coding",
    [
        pytest.param(0xC3, id="without loss"),
        pytest.param(0xC9, id="arithmetic"),
        pytest.param(0xCA, id="arithmetic, progressive"),
    ],
)
def test_jpeg_that_no_browser_shows_is_refused(
    coding: int, loads: list[tuple[int, int]]
) -> None:
    content = jpeg((64, 64), GREY, [sequential((0,))], coding=coding)

    with pytest.raises(InvalidImage):
        process_profile_image(content)

    assert loads == []


def test_jpeg_with_very_many_notes_is_refused() -> None:
    content = encoded(quarters(), "JPEG")

    with pytest.raises(InvalidImage):
        process_profile_image(content[:2] + segment(0xFE, b"") * 1001 + content[2:])


@pytest.mark.parametrize("between", [bytes(10**6), b"\xff" * 10**6, b"\xff\0\xff\1"])
def test_what_stands_between_the_segments_of_a_jpeg_is_passed_over(
    between: bytes,
) -> None:
    content = encoded(quarters(), "JPEG")

    image = avatar(content[:20] + between + content[20:])

    assert corners(image) == "red green blue white"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            tiny_png(extra=chunk(b"IDAT", b"") * 30_000), id="PNG, empty data"
        ),
        pytest.param(tiny_png(extra=chunk(b"noTe", b"") * 30_000), id="PNG, notes"),
        pytest.param(gif((9, 9), before=b"!\1\0\0" * 20_000), id="GIF, blocks"),
        pytest.param(gif((9, 9), before=b"!\xfe" + b"\1a" * 60_000), id="GIF, comment"),
        pytest.param(gif((9, 9), before=b"x" * 60_000), id="GIF, nonsense"),
        pytest.param(
            webp(vp8l((9, 9), REAL_ZEROS), *[(b"noTe", b"")] * 10_000),
            id="WebP, notes",
        ),
    ],
)
def test_picture_in_very_many_pieces_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidImage):
        process_profile_image(content)


def test_picture_in_as_many_pieces_as_encoders_make_is_accepted() -> None:
    image = avatar(tiny_png(extra=chunk(b"IDAT", b"") * 5000))

    assert image.size == (300, 300)


# What is no picture


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
def test_what_is_no_jpeg_png_gif_or_webp_is_refused(name: str) -> None:
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


@pytest.mark.parametrize("percent", [*range(0, 100, 7), 99])
@pytest.mark.parametrize("name", WHOLE)
def test_picture_that_is_cut_off_is_refused(name: str, percent: int) -> None:
    content = WHOLE[name][: len(WHOLE[name]) * percent // 100]

    with pytest.raises(InvalidImage):
        process_profile_image(content)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", [*WHOLE, "CMYK JPEG", "MPO", "animated GIF", "P PNG"])
def test_damaged_picture_is_refused_or_read_but_nothing_else(
    name: str, seed: int
) -> None:
    content = bytearray(WHOLE.get(name) or PICTURES[name][0])
    chance = random.Random(f"{name} {seed}")
    for position in chance.sample(range(len(content)), 3):
        content[position] = chance.randrange(256)

    with suppress(InvalidImage):
        assert avatar(bytes(content)).size == (300, 300)
