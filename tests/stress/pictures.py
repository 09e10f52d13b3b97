"""Pictures that are expensive to decode, or designed to exhaust a decoder."""

import random
import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image

Size = tuple[int, int]

JPEG_LARGE = (8660, 5773)


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


def gif(size: Size) -> bytes:
    """Return a GIF with one frame of 9 x 9 pixels on a logical screen of this size."""
    content = encoded(Image.new("P", (9, 9)), "GIF")
    return content[:6] + struct.pack("<HH", *size) + content[10:]


def many_scans(size: Size, count: int) -> bytes:
    """Return a progressive JPEG whose repeated last scan makes it slow to decode."""
    content = encoded(Image.new("L", size), "JPEG", progressive=True)
    scan = content.rindex(b"\xff\xda")
    return content[:scan] + content[scan:-2] * count + content[-2:]


def progressive(size: Size) -> bytes:
    return encoded(Image.new("CMYK", size), "JPEG", progressive=True, subsampling=0)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk (ISO 15948, section 5.3)."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(size: Size, pixels: bytes, *extra: bytes, depth: int, color_type: int) -> bytes:
    """Return a PNG that declares this size, even if its pixels don't match."""
    header = struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def small_png(*extra: bytes, size: Size = (9, 9)) -> bytes:
    """Return a PNG with 9 x 9 black pixels, which may declare another size."""
    return png(size, zlib.compress(bytes(90)), *extra, depth=8, color_type=0)


def large_png(size: Size) -> bytes:
    """Return a 16-bit RGBA PNG that uses the slowest filter (4, Paeth)."""
    row = (random.Random(1).randbytes(61) * size[0])[: 8 * size[0]]
    pixels = zlib.compress((b"\4" + row) * size[1], 1)
    return png(size, pixels, depth=16, color_type=6)
