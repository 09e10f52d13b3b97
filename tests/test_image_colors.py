"""Colors, transparency and checksums of uploaded pictures."""

import struct
import zlib
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from image_decoder import make_avatar
from tests.icc_profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    cmyk_profile,
    gray_profile,
    rgb_profile,
)

Color = tuple[int, ...]

ADOBE = rgb_profile(ADOBE_RGB, 2.2)
P3 = rgb_profile(DISPLAY_P3, 2.2)
# Larger than Pillow's default limit for profiles in PNG files.
LARGE = ADOBE + b"\0" * 2**20
LINEAR_GRAY = gray_profile(1.0)
CMYK = cmyk_profile()
GREEN = (112, 179, 72)
GREEN_IN_ADOBE = (60, 180, 60)
WHITE = (255, 255, 255)


def picture(mode: str, color: Any, file_format: str, profile: bytes) -> bytes:
    file = BytesIO()
    image = Image.new(mode, (300, 300), color)
    image.save(file, file_format, icc_profile=profile, quality=100)
    return file.getvalue()


def chunk(name: bytes, data: bytes, *, is_damaged: bool = False) -> bytes:
    checksum = zlib.crc32(name + data) ^ is_damaged
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", checksum)


def png(bits: int, color_type: int, row: bytes, *chunks: bytes) -> bytes:
    """Return a PNG of 300 equal rows, with these chunks before the pixels."""
    header = struct.pack(">IIBBBBB", 300, 300, bits, color_type, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * 300)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *chunks,
            chunk(b"IDAT", pixels),
            chunk(b"IEND", b""),
        ]
    )


def transparent(*color: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(color)}H", *color))


def color_of(avatar: bytes) -> Color:
    color: Any = Image.open(BytesIO(avatar)).getpixel((150, 150))
    return tuple(color)


def is_close(color: Color, expected: Color) -> bool:
    return all(abs(a - b) <= 5 for a, b in zip(color, expected, strict=True))


class TestProfiles:
    @pytest.mark.parametrize(
        ("mode", "color", "file_format", "profile", "expected"),
        [
            ("RGB", GREEN, "PNG", ADOBE, GREEN_IN_ADOBE),
            ("RGB", GREEN, "JPEG", ADOBE, GREEN_IN_ADOBE),
            ("RGB", GREEN, "PNG", P3, (89, 183, 47)),
            ("RGB", GREEN, "PNG", LARGE, GREEN_IN_ADOBE),
            ("RGBA", (*GREEN, 255), "PNG", ADOBE, GREEN_IN_ADOBE),
            ("RGBA", (*GREEN, 0), "PNG", ADOBE, WHITE),
            ("L", 128, "PNG", LINEAR_GRAY, (188, 188, 188)),
            ("LA", (128, 255), "PNG", LINEAR_GRAY, (188, 188, 188)),
            ("CMYK", (255, 0, 0, 0), "JPEG", CMYK, (252, 0, 10)),
        ],
    )
    def test_colors_are_converted(self, mode, color, file_format, profile, expected):
        avatar = make_avatar(picture(mode, color, file_format, profile))

        assert is_close(color_of(avatar), expected)

    @pytest.mark.parametrize(
        "profile",
        [b"-", ADOBE[:150], ADOBE[:200] + b"\xff" * 400, LINEAR_GRAY, CMYK],
        ids=["text", "incomplete", "damaged", "of gray pictures", "of CMYK pictures"],
    )
    def test_unusable_profile_is_ignored(self, profile):
        avatar = make_avatar(picture("RGB", GREEN, "PNG", profile))

        assert is_close(color_of(avatar), GREEN)


class TestTransparentColor:
    @pytest.mark.parametrize(
        "content",
        [
            png(1, 0, b"\x00" * 38, transparent(0)),
            png(2, 0, b"\x55" * 75, transparent(1)),
            png(4, 0, b"\x55" * 150, transparent(5)),
            png(8, 0, b"\x05" * 300, transparent(5)),
            png(16, 0, b"\x05\x06" * 300, transparent(0x506)),
            png(8, 2, b"\x01\x02\x03" * 300, transparent(1, 2, 3)),
            png(16, 2, b"\x12\x34" * 900, transparent(0x1234, 0x1234, 0x1234)),
        ],
        ids=["gray 1", "gray 2", "gray 4", "gray 8", "gray 16", "RGB 8", "RGB 16"],
    )
    def test_is_white(self, content):
        assert color_of(make_avatar(content)) == WHITE

    def test_other_color_is_opaque(self):
        content = png(4, 0, b"\x55" * 150, transparent(6))

        assert color_of(make_avatar(content)) == (85, 85, 85)


class TestDamagedPng:
    @pytest.mark.parametrize("name", [b"tEXt", b"gAMA"])
    def test_checksum_of_metadata_is_ignored(self, name):
        damaged = chunk(name, b"\0\0\0\1\0\0\0\1\0", is_damaged=True)

        avatar = make_avatar(png(8, 2, bytes(GREEN) * 300, damaged))

        assert is_close(color_of(avatar), GREEN)
