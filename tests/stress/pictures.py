"""Pictures that are damaged, expensive, or made to exhaust a decoder."""

import random
import struct
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

from PIL import Image

Size = tuple[int, int]
Make = Callable[[], bytes]

LARGE = (5000, 4000)
JPEG_LARGE = (8660, 5773)
# Start and step of each pass of an interlaced PNG (ISO 15948, section 8.2).
ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PAETH = b"\4"
ROW = random.Random(1).randbytes(61)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode a picture as a file of this format."""
    output = BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def noise(size: Size, mode: str = "RGB", *, grain: int = 1) -> Image.Image:
    """Return a reproducible picture that compresses badly."""
    width, height = (side // grain for side in size)
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = random.Random(1).randbytes(channels * width * height)
    image = Image.frombytes(mode, (width, height), pixels)
    return image.resize(size, Image.Resampling.NEAREST)


def animated(kind: str, frames: int) -> bytes:
    image, *others = [Image.new("RGB", (9, 9), (i % 256, 0, 0)) for i in range(frames)]
    return encoded(image, kind, save_all=True, append_images=others)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk (ISO 15948, section 5.3)."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(header: bytes, chunks: bytes) -> bytes:
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunks + chunk(b"IEND", b"")


def small_png(size: Size = (9, 9), extra: bytes = b"") -> bytes:
    """Return a PNG with 9 x 9 black pixels, whatever size it declares."""
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    return png(header, extra + chunk(b"IDAT", zlib.compress(bytes(90))))


def large_png(depth: int, size: Size = LARGE) -> bytes:
    """Return an interlaced RGBA picture with the slowest filter."""
    packed, data = zlib.compressobj(1), b""
    for left, top, across, down in ADAM7:
        columns, rows = -(-(size[0] - left) // across), -(-(size[1] - top) // down)
        length = columns * depth // 2
        data += packed.compress((PAETH + (ROW * (length // 61 + 1))[:length]) * rows)
    header = struct.pack(">IIBBBBB", *size, depth, 6, 0, 0, 1)
    return png(header, chunk(b"IDAT", data + packed.flush()))


def gif(size: Size) -> bytes:
    """Return a GIF with one frame of 9 x 9 pixels on a screen of any size."""
    content = encoded(Image.new("P", (9, 9)), "GIF")
    return content[:6] + struct.pack("<HH", *size) + content[10:]


def many_scans(size: Size, count: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan: little data, much work."""
    content = encoded(Image.new("L", size), "JPEG", progressive=True)
    scan = content.rindex(b"\xff\xda")
    return content[:scan] + content[scan:-2] * count + content[-2:]


def large_webp(**options: Any) -> bytes:
    return encoded(noise(LARGE, "RGBA", grain=9), "WEBP", method=0, **options)


def progressive(size: Size) -> bytes:
    return encoded(Image.new("CMYK", size), "JPEG", progressive=True, subsampling=0)


def hostile_files() -> dict[str, tuple[bytes, bool]]:
    """Return small files that are ambiguous or need resources; are they accepted?"""
    jpeg = encoded(noise((32, 24)), "JPEG")
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20), 9))
    size = struct.pack(">HH", 24, 32)
    return {
        "huge PNG": (small_png((2**31 - 1, 2**31 - 1)), False),
        "PNG with missing pixels": (small_png((90, 90)), False),
        "PNG of chunks": (small_png(extra=chunk(b"noTe", b"") * 100_000), True),
        "PNG of 100 MB of text": (small_png(extra=text * 100), False),
        "GIF of many frames": (animated("GIF", 500), True),
        "huge JPEG": (jpeg.replace(size, b"\xff\xff\xff\xff"), False),
        "JPEG of comments": (jpeg[:2] + b"\xff\xfe\0\2" * 99_999 + jpeg[2:], True),
        "JPEG after the start of a GIF": (b"GIF89a" + jpeg, False),
        "WebP of many frames": (animated("WEBP", 500), True),
    }


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Change bytes, and delete, repeat or replace a piece."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    start, end = sorted(rng.randrange(len(damaged)) for _ in range(2))
    piece = damaged[start:end]
    damaged[start:end] = rng.choice((piece, piece, b"", piece * 2, rng.randbytes(99)))
    return with_valid_checksums(bytes(damaged))


def with_valid_checksums(content: bytes) -> bytes:
    """Correct the checksums of a PNG, without which Pillow stops reading."""
    if not content.startswith(PNG_SIGNATURE):
        return content
    result, position = PNG_SIGNATURE, len(PNG_SIGNATURE)
    while position < len(content):
        data = position + 8
        end = data + int.from_bytes(content[position : position + 4], "big")
        result += chunk(content[position + 4 : data], content[data:end])
        position = end + 4
    return result


SMALL = (
    encoded(noise((48, 36)), "JPEG"),
    encoded(noise((48, 36), "CMYK"), "JPEG", progressive=True),
    encoded(noise((48, 36), "P"), "PNG", transparency=bytes(9)),
    large_png(16, (48, 36)),
    animated("GIF", 3),
    encoded(noise((48, 36), "RGBA"), "WEBP"),
    encoded(noise((48, 36), "RGBA"), "WEBP", lossless=True),
)
WORST: dict[str, Make] = {
    "JPEG, 50 MP, progressive, noise": lambda: encoded(
        noise(JPEG_LARGE, grain=16), "JPEG", quality=25, progressive=True
    ),
    # The narrowest 50-megapixel picture that is decoded at half the size.
    "JPEG, 50 MP, progressive, CMYK, wide": partial(progressive, (65_000, 769)),
    # The largest that is decoded at full size, because half would be too narrow.
    "JPEG, 39 MP, progressive, CMYK": partial(progressive, (65_500, 599)),
    "JPEG, 50 MP, 20 scans": partial(many_scans, JPEG_LARGE, 20),
    "PNG, 20 MP, 16-bit RGBA": partial(large_png, 16),
    "PNG, 1 x 20,000,000": partial(large_png, 8, (1, 20_000_000)),
    "GIF, 20 MP, interlaced": lambda: encoded(
        noise(LARGE, "P", grain=15), "GIF", interlace=1, transparency=3
    ),
    "WebP, 20 MP, transparent": partial(large_webp, quality=0, alpha_quality=0),
    "WebP, 20 MP, much EXIF": partial(large_webp, quality=0, exif=bytes(3_500_000)),
}
