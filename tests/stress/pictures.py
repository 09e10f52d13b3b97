"""Hostile and expensive pictures, and the cost of reading them.

`python -m tests.stress.pictures FILE` measures the cost in a separate process.
"""

import json
import math
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from image_decoder import limit_process, make_avatar

Size = tuple[int, int]
Make = Callable[[], bytes]

PNG_START = b"\x89PNG\r\n\x1a\n"
# Start and step of each pass of an interlaced PNG (ISO 15948, section 8.2).
ADAM7 = (
    ((0, 0), (8, 8)),
    ((4, 0), (8, 8)),
    ((0, 4), (4, 8)),
    ((2, 0), (4, 4)),
    ((0, 2), (2, 4)),
    ((1, 0), (2, 2)),
    ((0, 1), (1, 2)),
)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PAETH = 4


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


# PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk (ISO 15948, section 5.3)."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(
    size: Size,
    *,
    depth: int,
    color_type: int,
    row: bytes,
    filter_type: int = 0,
    interlaced: bool = False,
    extra: bytes = b"",
) -> bytes:
    """Return a PNG whose rows repeat `row`."""
    packed = zlib.compressobj(1)
    data = b""
    for columns, rows in passes(size) if interlaced else [size]:
        length = math.ceil(columns * depth * CHANNELS[color_type] / 8)
        line = bytes([filter_type]) + (row * (length // len(row) + 1))[:length]
        data += packed.compress(line * rows)
    header = struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, interlaced)
    return png_file(header, data + packed.flush(), extra)


def png_file(header: bytes, data: bytes, extra: bytes = b"") -> bytes:
    """Assemble a PNG."""
    return (
        PNG_START
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def tiny_png(*, size: Size = (9, 9), extra: bytes = b"") -> bytes:
    """Return a PNG with 9 x 9 black pixels that may declare another size."""
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    return png_file(header, zlib.compress(bytes(90)), extra)


def passes(size: Size) -> Iterator[Size]:
    """Return the sizes of an interlaced PNG's passes."""
    for (x, y), (across, down) in ADAM7:
        yield math.ceil((size[0] - x) / across), math.ceil((size[1] - y) / down)


def compressed_texts(count: int, *, size: int = 2**20) -> bytes:
    """Return text chunks of this decompressed size; Python needs four times as much."""
    text = "\N{GRINNING FACE}".encode() + b"a" * (size - 4)
    packed = zlib.compress(text, 9)
    return b"".join(
        chunk(b"iTXt", b"%d\0\1\0\0\0" % number + packed) for number in range(count)
    )


# GIF


def gif(
    screen: Size, *, colors: bytes = bytes(6), before: bytes = b"", after: bytes = b""
) -> bytes:
    """Return a GIF with one pixel, in the first of two colors, on any screen size."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0x80, 0, 0)
        + colors
        + before
        + gif_frame()
        + after
        + b";"
    )


def gif_frame() -> bytes:
    """Return a frame with one pixel."""
    return b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"


# JPEG


def segment(marker: int, data: bytes) -> bytes:
    """Return a JPEG segment (ITU-T T.81, section B.1.1.4)."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def many_scans(size: Size, count: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan: little data, much work."""
    content = encoded(Image.new("L", size), "JPEG", progressive=True)
    scan = content.rindex(b"\xff\xda")
    return content[:scan] + content[scan:-2] * count + content[-2:]


# WebP


def webp_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a WebP (RFC 9649, section 2.3)."""
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def webp_with_chunks(chunks: bytes) -> bytes:
    """Return a WebP of 9 x 9 pixels with more chunks."""
    image = encoded(Image.new("RGB", (9, 9)), "WEBP", lossless=True)
    return webp_chunk(b"RIFF", image[8:] + chunks)


def webp_canvas(side: int) -> bytes:
    """Return an animated WebP whose frames are far smaller than its canvas."""
    content = animated("WEBP", 2)
    return content[:24] + (side - 1).to_bytes(3, "little") * 2 + content[30:]


# Valid and invalid uploads


def animated(kind: str, count: int, size: Size = (30, 20)) -> bytes:
    """Return a picture with many different frames."""
    frames = [
        Image.new("RGB", size, (index * 89 % 256, index % 256, 90))
        for index in range(count)
    ]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def seeds() -> dict[str, bytes]:
    """Return small pictures of each mode in each format that supports it."""
    size = (48, 36)
    rgb, rgba, grey = noise(size), noise(size, "RGBA"), noise(size, "L")
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    row = random.Random(2).randbytes(61)
    return {
        **{f"{mode} PNG": encoded(rgba.convert(mode), "PNG") for mode in modes[:-1]},
        "I;16 PNG": encoded(Image.new("I;16", size, 90 * 257), "PNG"),
        "16-bit PNG": png(size, depth=16, color_type=6, row=row),
        "interlaced PNG": png(
            size, depth=8, color_type=2, row=row, filter_type=PAETH, interlaced=True
        ),
        "transparent PNG": encoded(rgb.convert("P"), "PNG", transparency=bytes(9)),
        "animated PNG": animated("PNG", 3),
        "L JPEG": encoded(grey, "JPEG"),
        "RGB JPEG": encoded(rgb, "JPEG"),
        "CMYK JPEG": encoded(rgb.convert("CMYK"), "JPEG"),
        "4:4:4 JPEG": encoded(rgb, "JPEG", subsampling=0),
        "progressive JPEG": encoded(rgb, "JPEG", progressive=True),
        "restarting JPEG": encoded(rgb, "JPEG", restart_marker_blocks=1),
        "MPO": animated("MPO", 2),
        "GIF": encoded(rgb, "GIF"),
        "L GIF": encoded(grey, "GIF", interlace=1),
        "transparent GIF": encoded(rgb.convert("P"), "GIF", transparency=0),
        "animated GIF": animated("GIF", 3),
        "WebP": encoded(rgb, "WEBP"),
        "lossless WebP": encoded(rgba, "WEBP", lossless=True),
        "transparent WebP": encoded(rgba, "WEBP"),
        "animated WebP": animated("WEBP", 3),
    }


FOREIGN = ("EPS", "PDF", "TIFF", "BMP", "ICO", "PPM", "TGA", "JPEG2000", "SGI", "PCX")


def other_files() -> dict[str, bytes]:
    """Return files of other formats, which a name or content type can hide."""
    image = noise((32, 24))
    return {
        **{kind: encoded(image, kind) for kind in FOREIGN},
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        "SVG with a doctype": b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "a">]>',
        "EPS that runs a command": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
        b"(%pipe%id) (w) file\n",
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200),
        "PSD": b"8BPS\0\1" + bytes(200),
        "ZIP": b"PK\3\4" + bytes(200),
        "program": b"\x7fELF\2\1\1" + bytes(200),
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "nothing": b"",
        "one byte": b"\xff",
        "zeros": bytes(10_000),
    }


def polyglots() -> dict[str, bytes]:
    """Return pictures that are also valid files of another format."""
    image = noise((32, 24))
    plain = {kind: encoded(image, kind) for kind in ("GIF", "JPEG", "PNG", "WEBP")}
    return {
        "GIF and HTML": plain["GIF"] + b"<script>alert(1)</script>",
        "GIF and JavaScript": b"GIF89a=1/*" + plain["GIF"][10:] + b"*/;alert(1)",
        "JPEG and ZIP": plain["JPEG"] + b"PK\3\4" + bytes(30) + b"PK\5\6" + bytes(18),
        "JPEG and PHP": encoded(image, "JPEG", comment=b"<?php system($_GET[0]); ?>"),
        "PNG and a script": plain["PNG"] + b"#!/bin/sh\nrm -rf /\n",
        "WebP and PDF": plain["WEBP"] + b"%PDF-1.7\n%%EOF",
        "PNG in a JPEG": plain["JPEG"][:20] + plain["PNG"] + plain["JPEG"][20:],
        "JPEG after a GIF's start": b"GIF89a" + plain["JPEG"],
        "TIFF in EXIF": encoded(
            image, "JPEG", exif=b"Exif\0\0" + encoded(image, "TIFF")
        ),
    }


def bombs() -> dict[str, bytes]:
    """Return small files that need many resources."""
    small = encoded(noise((32, 24)), "JPEG")
    megabyte = zlib.compress(bytes(2**20), 9)
    exif = b"MM\0*\0\0\0\x08\xff\xff" + b"".join(
        struct.pack(">HHII", tag, 7, 9, 8) for tag in range(2**16 - 1)
    )
    return {
        "PNG of the largest size": tiny_png(size=(2**31 - 1, 2**31 - 1)),
        "PNG of too many pixels": tiny_png(size=(20_000, 20_000)),
        "PNG without width": tiny_png(size=(0, 9)),
        "PNG with more data than pixels": tiny_png(size=(1, 1)),
        "PNG of 400,000 empty chunks": tiny_png(extra=chunk(b"IDAT", b"") * 400_000),
        "PNG of 4,000 profiles": tiny_png(
            extra=chunk(b"iCCP", b"k\0\0" + megabyte) * 4000
        ),
        "PNG of 100 texts": tiny_png(extra=compressed_texts(100)),
        "PNG with a note of 65,535 entries": tiny_png(extra=chunk(b"eXIf", exif)),
        "GIF of the largest size": gif((65_535, 65_535)),
        "GIF whose frame is the largest": gif((9, 9)).replace(
            struct.pack("<HH", 1, 1), b"\xff\xff\xff\xff"
        ),
        "GIF of a million blocks": gif((9, 9), before=b"!\1\0\0" * 10**6),
        "GIF of 500 frames": animated("GIF", 500),
        "PNG of 500 frames": animated("PNG", 500),
        "WebP of 500 frames": animated("WEBP", 500),
        "WebP of a large canvas": webp_canvas(13_000),
        "WebP of 600,000 chunks": webp_with_chunks(webp_chunk(b"noTe", b"") * 600_000),
        "GIF of 100,000 frames": gif((9, 9), after=gif_frame() * 100_000),
        "JPEG of the largest size": small.replace(
            struct.pack(">HH", 24, 32), b"\xff\xff\xff\xff"
        ),
        "JPEG of 1,000 scans": many_scans((512, 512), 1000),
        "JPEG of 1,000 large scans": many_scans(JPEG_LARGE, 1000),
        "JPEG of 60 large scans": many_scans(JPEG_LARGE, 60),
        "JPEG of a million comments": small[:2] + b"\xff\xfe\0\2" * 10**6 + small[2:],
        "JPEG of a million notes": small[:2]
        + segment(0xE1, b"Exif\0\0a") * 400_000
        + small[2:],
        "JPEG of padding": small[:20] + b"\xff" * 4_000_000 + small[20:],
        "file of 6 MB": small + bytes(6_000_000),
        "file of 5 MB and a little": small + bytes(5 * 2**20 - len(small) + 1),
        **{
            f"{kind} of {width} x {height}": encoded(
                Image.new("L", (width, height)), kind
            )
            for kind in ("PNG", "JPEG", "GIF")
            for width, height in ((1, 60_000), (60_000, 1))
        },
    }


# Damage


def flip_bytes(content: bytes, chance: random.Random) -> bytes:
    """Change some bytes."""
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged)


def truncate(content: bytes, chance: random.Random) -> bytes:
    """Cut off the end."""
    return content[: chance.randrange(len(content))]


def move_piece(content: bytes, chance: random.Random) -> bytes:
    """Delete, double, or move a piece."""
    start, end, place = sorted(chance.randrange(len(content)) for _ in range(3))
    piece = content[start:end]
    return chance.choice(
        (
            content[:start] + content[end:],
            content[:end] + piece + content[end:],
            content[:start] + content[end:place] + piece + content[place:],
        )
    )


def change_size(content: bytes, chance: random.Random) -> bytes:
    """Change bytes that may hold the size."""
    sides = [chance.choice((0, 1, 36, 48, 255, 5000, 65_535)) for _ in range(2)]
    order = "<" if content[:4] in (b"GIF8", b"RIFF") else ">"
    for form in "HI":
        for size in ((48, 36), (36, 48)):
            content = content.replace(
                struct.pack(f"{order}2{form}", *size),
                struct.pack(f"{order}2{form}", *sides),
            )
    return content


def insert_data(content: bytes, chance: random.Random) -> bytes:
    """Insert or append data."""
    place = chance.choice((len(content), chance.randrange(len(content))))
    more = chance.choice(
        (
            chance.randbytes(chance.randint(1, 3000)),
            chunk(
                chance.choice((b"tRNS", b"PLTE", b"acTL", b"fcTL")),
                chance.randbytes(26),
            ),
            segment(chance.randrange(0xC0, 0xFF), chance.randbytes(20)),
            b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0",
            content,
        )
    )
    return content[:place] + more + content[place:]


DAMAGES = (flip_bytes, flip_bytes, truncate, move_piece, change_size, insert_data)


def fix_checksums(content: bytes) -> bytes:
    """Fix the checksums of a PNG, so that Pillow reads further."""
    if not content.startswith(PNG_START):
        return content
    chunks, position = [PNG_START], len(PNG_START)
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        start = position + 4
        position = start + 4 + length + 4
        chunks.append(
            chunk(content[start : start + 4], content[start + 4 : position - 4])
        )
    return b"".join(chunks)


def damage_picture(
    chance: random.Random, whole: Mapping[str, bytes]
) -> tuple[str, bytes]:
    """Return one of these pictures, damaged once or twice."""
    name = chance.choice([*whole])
    content = whole[name]
    for damaged in chance.sample(DAMAGES, chance.choice((1, 1, 2))):
        name, content = f"{name}, {damaged.__name__}", damaged(content, chance) or b"\0"
    return name, fix_checksums(content) if chance.random() < 0.7 else content


def hostile(count: int, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """Return this many reproducible pictures by name, half of them damaged."""
    chance = random.Random(seed)
    whole = seeds()
    by_hand = [*(whole | other_files() | polyglots() | bombs()).items()]
    chance.shuffle(by_hand)
    by_hand = by_hand[: count // 2]
    yield from by_hand
    for _ in range(count - len(by_hand)):
        yield damage_picture(chance, whole)


# The most expensive valid pictures

LARGE = (5000, 4000)
JPEG_LARGE = (8660, 5773)
# The narrowest 50-megapixel picture that is decoded at half the size.
JPEG_NARROW = (65_000, 769)
# The largest that is decoded at full size, because half would be under 600 pixels.
JPEG_FULL_SIZE = (65_500, 599)
ROW = random.Random(3).randbytes(61)
TRANSPARENT_COLOURS = chunk(b"PLTE", random.Random(4).randbytes(768)) + chunk(
    b"tRNS", random.Random(5).randbytes(256)
)


def large_png(
    depth: int, color_type: int, *, size: Size = LARGE, extra: bytes = b""
) -> bytes:
    """Return a PNG of the maximum size that is slow to decode."""
    return png(
        size,
        depth=depth,
        color_type=color_type,
        row=ROW,
        filter_type=PAETH,
        interlaced=True,
        extra=extra,
    )


def progressive(mode: str, size: Size) -> Make:
    """Return what makes a progressive JPEG without subsampling."""
    return lambda: encoded(
        Image.new(mode, size, "red" if mode == "RGB" else 0),
        "JPEG",
        progressive=True,
        subsampling=0,
    )


WORST: dict[str, Make] = {
    "JPEG, 50 MP, baseline, CMYK": lambda: encoded(
        Image.new("CMYK", JPEG_LARGE), "JPEG"
    ),
    "JPEG, 50 MP, progressive, 4:2:0, noise": lambda: encoded(
        noise(JPEG_LARGE, grain=16), "JPEG", quality=25, progressive=True
    ),
    "JPEG, 50 MP, progressive, 4:4:4, noise": lambda: encoded(
        noise(JPEG_LARGE, grain=20),
        "JPEG",
        quality=25,
        progressive=True,
        subsampling=0,
    ),
    "JPEG, 50 MP, progressive, 4:4:4": progressive("RGB", JPEG_LARGE),
    "JPEG, 50 MP, progressive, CMYK": progressive("CMYK", JPEG_LARGE),
    "JPEG, 50 MP, progressive, 4:4:4, wide": progressive("RGB", JPEG_NARROW),
    "JPEG, 50 MP, progressive, CMYK, wide": progressive("CMYK", JPEG_NARROW),
    "JPEG, 50 MP, progressive, CMYK, tall": progressive("CMYK", JPEG_NARROW[::-1]),
    "JPEG, 39 MP, progressive, CMYK, at full size": progressive("CMYK", JPEG_FULL_SIZE),
    "JPEG, 50 MP, progressive, 20 scans more": lambda: many_scans(JPEG_LARGE, 20),
    "PNG, 20 MP, 16-bit RGBA": lambda: large_png(16, 6),
    "PNG, 20 MP, 16-bit RGB": lambda: large_png(16, 2),
    "PNG, 20 MP, 16-bit grey and alpha": lambda: large_png(16, 4),
    "PNG, 20 MP, 16-bit grey, a transparent one": lambda: large_png(
        16, 0, extra=chunk(b"tRNS", bytes(2))
    ),
    "PNG, 20 MP, RGBA": lambda: large_png(8, 6),
    "PNG, 20 MP, RGB, a transparent color": lambda: large_png(
        8, 2, extra=chunk(b"tRNS", bytes(6))
    ),
    "PNG, 20 MP, palette with alpha": lambda: large_png(
        8, 3, extra=TRANSPARENT_COLOURS
    ),
    "PNG, 20 MP, RGBA, 30 packed profiles": lambda: large_png(
        8, 6, extra=chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(2**20))) * 30
    ),
    "PNG, 1 x 20,000,000, RGBA, 8 MB of notes": lambda: large_png(
        8,
        6,
        size=(1, 20_000_000),
        extra=compressed_texts(2) + chunk(b"noTe", bytes(4_000_000)),
    ),
    "GIF, 20 MP, interlaced": lambda: encoded(
        noise(LARGE, "P", grain=15), "GIF", interlace=1, transparency=3
    ),
    "GIF, 20 MP, but for a pixel transparent": lambda: gif(
        LARGE, before=b"!\xf9\4\1\0\0\0\0"
    ),
    "WebP, 20 MP, noise": lambda: encoded(noise(LARGE), "WEBP", quality=3, method=0),
    "WebP, 20 MP, transparent noise": lambda: encoded(
        noise(LARGE, "RGBA", grain=3), "WEBP", quality=0, method=0, alpha_quality=0
    ),
    "WebP, 20 MP, lossless": lambda: encoded(
        noise(LARGE, "RGBA", grain=9), "WEBP", lossless=True, quality=20, method=1
    ),
    "WebP, 20 MP, 5 MB of notes": lambda: encoded(
        Image.new("RGBA", LARGE), "WEBP", method=0, exif=bytes(5_100_000)
    ),
    "WebP, 20 MP, 50 frames": lambda: animated("WEBP", 50, LARGE),
}


# Typical uploads


def photo(size: Size, kind: str, **options: Any) -> Make:
    """Return what makes a picture as detailed and noisy as a photo."""

    def make() -> bytes:
        image = Image.linear_gradient("L").resize(size)
        grain = Image.effect_noise(size, 64)
        image = Image.merge("RGB", [Image.blend(image, grain, 0.3)] * 3)
        return encoded(image, kind, **options)

    return make


PHOTOS: dict[str, Make] = {
    "photo, 12 MP": photo((4032, 3024), "JPEG", quality=75),
    "photo, 3 MP": photo((2048, 1536), "JPEG", quality=85),
    "photo, 3 MP, progressive": photo(
        (2048, 1536), "JPEG", quality=85, progressive=True
    ),
    "photo, 3 MP, WebP": photo((2048, 1536), "WEBP"),
    "photo, 1 MP, PNG": photo((1200, 900), "PNG"),
}


class Cost(NamedTuple):
    """The cost of making an avatar in a separate process."""

    seconds: float
    """CPU seconds, including the start of the process."""
    megabytes: float
    """Peak memory of the process."""


def peak_megabytes() -> float:
    """Return the peak memory of this process."""
    # Not getrusage, where a new process starts with its parent's peak.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


if __name__ == "__main__":
    limit_process()
    make_avatar(Path(sys.argv[1]).read_bytes())
    cost = Cost(time.process_time(), peak_megabytes())
    sys.stdout.write(json.dumps(cost._asdict()))
