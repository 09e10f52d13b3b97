"""Pictures as no camera makes them, and what it costs to read one.

`python -m tests.torture.pictures FILE` measures that, in a process of its own.
"""

import json
import math
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from image_utils import InvalidImage, process_profile_image
from webp_lossless import LENGTH_ORDER

Size = tuple[int, int]
Make = Callable[[], bytes]

PNG_START = b"\x89PNG\r\n\x1a\n"
# Where the passes of an interlaced PNG begin, and their steps (ISO 15948, section 8.2).
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

SOF0, SOF2, SOS = 0xC0, 0xC2, 0xDA


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as a file of this kind."""
    output = BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def noise(size: Size, mode: str = "RGB", *, grain: int = 1) -> Image.Image:
    """A picture that compresses badly, the same each time."""
    width, height = (side // grain for side in size)
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = random.Random(1).randbytes(channels * width * height)
    image = Image.frombytes(mode, (width, height), pixels)
    return image.resize(size, Image.Resampling.NEAREST)


# PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG (ISO 15948, section 5.3)."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(
    size: Size,
    *,
    depth: int,
    colour_type: int,
    row: bytes,
    filter_type: int = 0,
    interlaced: bool = False,
    extra: bytes = b"",
) -> bytes:
    """A PNG all of whose rows begin with `row`, repeated as often as fits."""
    packed = zlib.compressobj(1)
    data = b""
    for columns, rows in passes(size) if interlaced else [size]:
        length = math.ceil(columns * depth * CHANNELS[colour_type] / 8)
        line = bytes([filter_type]) + (row * (length // len(row) + 1))[:length]
        data += packed.compress(line * rows)
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, interlaced)
    return png_file(header, data + packed.flush(), extra)


def png_file(header: bytes, data: bytes, extra: bytes = b"") -> bytes:
    """A PNG of these parts."""
    return (
        PNG_START
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def tiny_png(*, size: Size = (9, 9), extra: bytes = b"") -> bytes:
    """A PNG of 9 x 9 black pixels, whatever size it says it has."""
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    return png_file(header, zlib.compress(bytes(90)), extra)


def passes(size: Size) -> Iterator[Size]:
    """The sizes of the pictures that an interlaced PNG of this size is made of."""
    for (x, y), (across, down) in ADAM7:
        yield math.ceil((size[0] - x) / across), math.ceil((size[1] - y) / down)


def packed_texts(count: int, *, size: int = 2**20) -> bytes:
    """Chunks of text that unpack to this size, and in Python to four times it."""
    text = "\N{GRINNING FACE}".encode() + b"a" * (size - 4)
    packed = zlib.compress(text, 9)
    return b"".join(
        chunk(b"iTXt", b"%d\0\1\0\0\0" % number + packed) for number in range(count)
    )


# GIF


def gif(
    screen: Size, *, colours: bytes = bytes(6), before: bytes = b"", after: bytes = b""
) -> bytes:
    """A GIF of one pixel, of the first of two colours, on a screen of any size."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0x80, 0, 0)
        + colours
        + before
        + gif_frame()
        + after
        + b";"
    )


def gif_frame() -> bytes:
    """A frame of one pixel."""
    return b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"


# JPEG


class Scan(NamedTuple):
    """What a scan has of which components (ITU-T T.81, section B.2.3)."""

    components: Sequence[int]
    first: int = 0
    last: int = 0
    high: int = 0
    low: int = 0


GREY = [(1, 1)]
YCC_420 = [(2, 2), (1, 1), (1, 1)]
YCC_444 = [(1, 1)] * 3
CMYK = [(1, 1)] * 4

# What libjpeg writes if nobody tells it how to be progressive.
USUAL_SCANS = [
    Scan((0, 1, 2), low=1),
    Scan((0,), 1, 5, low=2),
    Scan((2,), 1, 63, low=1),
    Scan((1,), 1, 63, low=1),
    Scan((0,), 6, 63, low=2),
    Scan((0,), 1, 63, high=2, low=1),
    Scan((0, 1, 2), high=1),
    Scan((2,), 1, 63, high=1),
    Scan((1,), 1, 63, high=1),
    Scan((0,), 1, 63, high=1),
]


def costly_scans(count: int, *, components: int = 1) -> list[Scan]:
    """The most work that this many scans can make: looking for what to refine."""
    names = range(components)
    refining = [Scan((number % components,), 1, 63, high=1) for number in range(count)]
    coarse = [Scan((name,), 1, 63, low=1) for name in names]
    return [Scan(names), *coarse, *refining][:count]


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG (ITU-T T.81, section B.1.1.4)."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(
    size: Size,
    factors: Sequence[Size],
    scans: Iterable[Scan],
    *,
    coding: int = SOF2,
    before: bytes = b"",
) -> bytes:
    """A grey JPEG with these sampling factors and scans; its data is all zeros."""
    frame = struct.pack(">BHHB", 8, size[1], size[0], len(factors)) + b"".join(
        bytes([name, across << 4 | down, 0])
        for name, (across, down) in enumerate(factors)
    )
    # Codes of one bit: no difference; and the end of the block, or of 16,384 blocks.
    end = 0xE0 if coding == SOF2 else 0
    return (
        b"\xff\xd8"
        + before
        + segment(0xDB, bytes([0]) + bytes([1] * 64))
        + segment(coding, frame)
        + segment(0xC4, bytes([0x00, 1, *[0] * 15, 0]))
        + segment(0xC4, bytes([0x10, 1, *[0] * 15, end]))
        + b"".join(coded(scan, size, factors, coding) for scan in scans)
        + b"\xff\xd9"
    )


def coded(scan: Scan, size: Size, factors: Sequence[Size], coding: int) -> bytes:
    """A scan of a JPEG with its data."""
    names, first, last, high, low = scan
    header = b"".join(bytes([name, 0]) for name in names)
    header = bytes([len(names)]) + header + bytes([first, last, high << 4 | low])
    across = math.ceil(size[0] / (8 * max(across for across, _ in factors)))
    down = math.ceil(size[1] / (8 * max(down for _, down in factors)))
    blocks = across * down * sum(factors[name][0] * factors[name][1] for name in names)
    bits = blocks if coding == SOF2 else 2 * blocks
    if first:
        bits = 15 * math.ceil(blocks / 2**14)
    return segment(SOS, header) + bytes(math.ceil(bits / 8))


def sequential(components: Sequence[int]) -> Scan:
    """A scan that has all there is of some components."""
    return Scan(components, 0, 63)


# WebP


PREDICTOR, COLOUR, SUBTRACT_GREEN, COLOUR_INDEXING = range(4)
# A code for nothing but zero, which then takes no bits; with such codes a picture that
# tells a transform, and the real one if there are no more transforms.
ONLY_ZERO = "1000"
TOLD_ZEROS = "0" + ONLY_ZERO * 5
REAL_ZEROS = "000" + ONLY_ZERO * 5
# How long codes are if libwebp's tables for them are largest, or nearly so: for bytes,
# and for green if 2,048 colours are cached.
LARGEST = [1, 2, 3, 4, *[9] * 5, *[10] * 17, 11, *[12] * 65, *[13] * 161, 14, 15, 15]
LARGEST_GREEN = [
    *(1, 2, 6, *[9] * 5, *[10] * 9, *[11] * 17),
    *(*[12] * 145, *[13] * 864, *[14] * 899, *[15] * 386),
]


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks (RFC 9649, section 2.3)."""
    body = b"WEBP" + b"".join(webp_chunk(*chunk) for chunk in chunks)
    return webp_chunk(b"RIFF", body)


def webp_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a WebP."""
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def canvas(size: Size, flags: int = 0) -> bytes:
    """What stands before the pictures of a WebP (RFC 9649, section 2.7)."""
    sides = ((side - 1).to_bytes(3, "little") for side in size)
    return bytes([flags, 0, 0, 0]) + b"".join(sides)


def vp8l(size: Size, bits: str) -> tuple[bytes, bytes]:
    """The chunk of a picture without loss (RFC 9649, section 3.4)."""
    sides = "".join(number(side - 1, 14) for side in size)
    return b"VP8L", packed_bits(number(0x2F, 8) + sides + "1000" + bits)


def lossless(size: Size, bits: str) -> bytes:
    """A WebP that is one picture without loss."""
    return webp(vp8l(size, bits))


def lossless_alpha(
    size: Size, bits: str, *, notes: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """A WebP whose colours are black, and whose alpha is without loss."""
    black = encoded(Image.new("RGB", size), "WEBP", method=0)
    return webp(
        (b"VP8X", canvas(size, 0x18)),
        (b"ALPH", b"\1" + packed_bits(bits)),
        (b"VP8 ", black[20:]),
        *notes,
    )


def lossless_frame(size: Size, bits: str) -> bytes:
    """A WebP that is an animation of one picture without loss."""
    return webp((b"VP8X", canvas(size, 2)), (b"ANIM", bytes(6)), anmf(size, bits))


def anmf(size: Size, bits: str) -> tuple[bytes, bytes]:
    """The chunk of a frame without loss (RFC 9649, section 2.7.1.1)."""
    picture = webp_chunk(*vp8l(size, bits))
    return b"ANMF", bytes(6) + canvas(size)[4:] + bytes(4) + picture


def transform(kind: int, image: str, *, block_bits: int = 4) -> str:
    """The bits of a transform that a picture tells, for blocks of this size."""
    return "1" + number(kind, 2) + number(block_bits - 2, 3) + image


def many_sets(
    size: Size,
    sets: int,
    *,
    block_bits: int = 4,
    transforms: str = "",
    cache: str = "0",
    codes: str = ONLY_ZERO * 5,
) -> str:
    """The bits of a picture with this many sets of prefix codes, more than 256.

    If they are for nothing but zeros, a set takes 20 bits here and 5,700 bytes in
    libwebp. Which block of pixels has which set, another picture tells: green and red
    of its pixels are the number of the set (RFC 9649, section 3.7.2.2).
    """
    blocks = math.prod(math.ceil(side / 2**block_bits) for side in size)
    green, red = even_lengths(256), even_lengths(math.ceil(sets / 256))
    greens, reds = code_words(green), code_words(red)
    numbers = (divmod(block % sets, 256) for block in range(blocks))
    return "".join(
        (
            transforms + "0" + cache + "1" + number(block_bits - 2, 3) + "0",
            prefix_code([*green, *[0] * 24]),
            prefix_code([*red, *[0] * (256 - len(red))]),
            ONLY_ZERO * 3,
            *(greens[low] + reds[high] for high, low in numbers),
            codes * sets,
        )
    )


def even_lengths(count: int) -> list[int]:
    """The lengths of a code for this many symbols, two or more, as equal as can be."""
    longest = (count - 1).bit_length()
    shorter = 2**longest - count
    return [longest - 1] * shorter + [longest] * (count - shorter)


def code_words(lengths: Sequence[int]) -> dict[int, str]:
    """The bits of each symbol in the code with these lengths."""
    used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    if len(used) == 1:
        return {used[0][1]: ""}
    words, value = {}, 0
    for length, symbol in used:
        words[symbol] = f"{value:015b}"[:length]
        value += 2 ** (15 - length)
    return words


def prefix_code(lengths: Sequence[int]) -> str:
    """How the code with these lengths is written (RFC 9649, section 3.7.2.1.2)."""
    own_lengths = even_lengths(len(LENGTH_ORDER))
    words = code_words(own_lengths)
    bits = ["0", number(15, 4)]
    bits += [number(own_lengths[length], 3) for length in LENGTH_ORDER]
    bits += ["0"]
    for length, run in groupby(lengths):
        more = len([*run]) - 1
        six_times, others = divmod(more, 6) if length else (0, more)
        bits += [words[length] * (1 + others), (words[16] + "11") * six_times]
    return "".join(bits)


def told_noise(pixels: int) -> str:
    """The bits of a picture that tells a transform, as slow to read as can be."""
    byte = even_lengths(256)
    codes = prefix_code([*byte, *[0] * 24]) + prefix_code(byte) * 3 + ONLY_ZERO
    noise = random.Random(6).getrandbits(32 * pixels)
    return "0" + codes + f"{noise:0{32 * pixels}b}"


def most_memory(size: Size, sets: int, *, block_bits: int = 2) -> str:
    """The bits of a picture that takes as much memory as it can, and is all zeros."""
    # The shortest code is for the longest copies, 3,073 pixels and what ten bits tell;
    # and for the distance of one pixel.
    green = LARGEST_GREEN.copy()
    green[0], green[279] = green[279], green[0]
    distance = [2, 1, *[0] * 36, 3, 3]
    codes = prefix_code(green) + prefix_code(LARGEST) * 3 + prefix_code(distance)
    before = many_sets(
        size, sets, block_bits=block_bits, cache="1" + number(11, 4), codes=codes
    )
    zero, copies = code_words(green)[0] + "000", "0" * 12
    count, others = divmod(math.prod(size) - 1, 3073)
    return before + zero + copies * count + zero * others


def number(value: int, width: int) -> str:
    """A number as bits, the lowest first."""
    return f"{value:0{width}b}"[::-1]


def packed_bits(bits: str) -> bytes:
    """Bits, the first the lowest of the first byte; as many bytes as an even number."""
    count = 2 * math.ceil(len(bits) / 16)
    return int(bits[::-1], 2).to_bytes(count, "little")


# What is uploaded: pictures that are fine, and others


def animated(kind: str, count: int, size: Size = (30, 20)) -> bytes:
    """Many frames, none like the one before."""
    frames = [
        Image.new("RGB", size, (index * 89 % 256, index % 256, 90))
        for index in range(count)
    ]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def seeds() -> dict[str, bytes]:
    """Small pictures of each mode in each format that has it."""
    size = (48, 36)
    rgb, rgba, grey = noise(size), noise(size, "RGBA"), noise(size, "L")
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    row = random.Random(2).randbytes(61)
    return {
        **{f"{mode} PNG": encoded(rgba.convert(mode), "PNG") for mode in modes[:-1]},
        "I;16 PNG": encoded(Image.new("I;16", size, 90 * 257), "PNG"),
        "16-bit PNG": png(size, depth=16, colour_type=6, row=row),
        "interlaced PNG": png(
            size, depth=8, colour_type=2, row=row, filter_type=PAETH, interlaced=True
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


def no_pictures() -> dict[str, bytes]:
    """Files of other formats, which a name and a type can deny."""
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
    """Pictures that are something else as well."""
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
    """Small files that ask for much."""
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
        "PNG of 100 texts": tiny_png(extra=packed_texts(100)),
        "PNG with a note of 65,535 entries": tiny_png(extra=chunk(b"eXIf", exif)),
        "GIF of the largest size": gif((65_535, 65_535)),
        "GIF whose frame is the largest": gif((9, 9)).replace(
            struct.pack("<HH", 1, 1), b"\xff\xff\xff\xff"
        ),
        "GIF of a million blocks": gif((9, 9), before=b"!\1\0\0" * 10**6),
        "GIF of 500 frames": animated("GIF", 500),
        "PNG of 500 frames": animated("PNG", 500),
        "WebP of 500 frames": animated("WEBP", 500),
        "WebP of 65,536 sets of codes": lossless(
            (4096, 4096), many_sets((4096, 4096), 65_536)
        ),
        "WebP of 600,000 chunks": webp(
            vp8l((9, 9), REAL_ZEROS), *[(b"noTe", b"")] * 600_000
        ),
        "GIF of 100,000 frames": gif((9, 9), after=gif_frame() * 100_000),
        "JPEG of the largest size": jpeg((65_535, 65_535), YCC_420, [Scan((0, 1, 2))])[
            :5000
        ],
        "JPEG of 1,000 scans": jpeg((512, 512), GREY, costly_scans(1000)),
        "JPEG of 60 scans": jpeg((8660, 5773), GREY, costly_scans(60)),
        "JPEG of 50 megapixels of CMYK": jpeg(
            (8660, 5773), CMYK, [sequential((name,)) for name in range(4)], coding=SOF0
        ),
        "JPEG of a million comments": small[:2] + b"\xff\xfe\0\2" * 10**6 + small[2:],
        "JPEG of a million notes": small[:2]
        + segment(0xE1, b"Exif\0\0a") * 400_000
        + small[2:],
        "JPEG of padding": small[:20] + b"\xff" * 4_000_000 + small[20:],
        "JPEG of arithmetic codes": jpeg(
            (8660, 5773), YCC_444, [sequential((0, 1, 2))], coding=0xC9
        ),
        "JPEG without loss": jpeg((512, 512), GREY, [Scan((0,), 1)], coding=0xC3),
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


# How a picture is damaged


def flipped(content: bytes, chance: random.Random) -> bytes:
    """Some bytes are others."""
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged)


def cut_off(content: bytes, chance: random.Random) -> bytes:
    """The end is missing."""
    return content[: chance.randrange(len(content))]


def torn(content: bytes, chance: random.Random) -> bytes:
    """A piece is missing, doubled, or somewhere else."""
    start, end, place = sorted(chance.randrange(len(content)) for _ in range(3))
    piece = content[start:end]
    return chance.choice(
        (
            content[:start] + content[end:],
            content[:end] + piece + content[end:],
            content[:start] + content[end:place] + piece + content[place:],
        )
    )


def resized(content: bytes, chance: random.Random) -> bytes:
    """Where the size may stand, there is another."""
    sides = [chance.choice((0, 1, 36, 48, 255, 5000, 65_535)) for _ in range(2)]
    order = "<" if content[:4] in (b"GIF8", b"RIFF") else ">"
    for form in "HI":
        for size in ((48, 36), (36, 48)):
            content = content.replace(
                struct.pack(f"{order}2{form}", *size),
                struct.pack(f"{order}2{form}", *sides),
            )
    return content


def extended(content: bytes, chance: random.Random) -> bytes:
    """There is more in it, or after it."""
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


DAMAGES = (flipped, flipped, cut_off, torn, resized, extended)


def repaired(content: bytes) -> bytes:
    """The same with right checksums, if it is a PNG: Pillow looks no further else."""
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


def damaged(chance: random.Random, whole: Mapping[str, bytes]) -> tuple[str, bytes]:
    """One of these pictures after an accident or two."""
    name = chance.choice([*whole])
    content = whole[name]
    for damage in chance.sample(DAMAGES, chance.choice((1, 1, 2))):
        name, content = f"{name}, {damage.__name__}", damage(content, chance) or b"\0"
    return name, repaired(content) if chance.random() < 0.7 else content


def hostile(count: int, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """This many pictures by name, the same for the same seed; half of them damaged."""
    chance = random.Random(seed)
    whole = seeds()
    by_hand = [*(whole | no_pictures() | polyglots() | bombs()).items()]
    chance.shuffle(by_hand)
    by_hand = by_hand[: count // 2]
    yield from by_hand
    for _ in range(count - len(by_hand)):
        yield damaged(chance, whole)


# What is accepted and costs the most

LARGE = (5000, 4000)
JPEG_LARGE = (8660, 5773)
# As thin as it can be without being decoded at a reduced scale.
JPEG_THIN = (1199, 41_701)
ROW = random.Random(3).randbytes(61)
TRANSPARENT_COLOURS = chunk(b"PLTE", random.Random(4).randbytes(768)) + chunk(
    b"tRNS", random.Random(5).randbytes(256)
)


def large_png(
    depth: int, colour_type: int, *, size: Size = LARGE, extra: bytes = b""
) -> bytes:
    """A PNG of as many pixels as allowed, as slow to decode as it can be."""
    return png(
        size,
        depth=depth,
        colour_type=colour_type,
        row=ROW,
        filter_type=PAETH,
        interlaced=True,
        extra=extra,
    )


WORST: dict[str, Make] = {
    "JPEG, 50 MP, baseline, CMYK": lambda: jpeg(
        JPEG_LARGE, CMYK, [sequential(range(4))], coding=SOF0
    ),
    "JPEG, 50 MP, baseline, CMYK, thin": lambda: jpeg(
        JPEG_THIN, CMYK, [sequential(range(4))], coding=SOF0
    ),
    "JPEG, 50 MP, progressive, noise": lambda: encoded(
        noise(JPEG_LARGE, grain=16), "JPEG", quality=25, progressive=True
    ),
    "JPEG, 50 MP, progressive, grey, 12 scans": lambda: jpeg(
        (8656, 5768), GREY, costly_scans(12)
    ),
    "JPEG, 37 MP, progressive, 4:4:4": lambda: jpeg((7000, 5300), YCC_444, USUAL_SCANS),
    "JPEG, 32 MP, progressive, 4:2:0, thin": lambda: jpeg(
        (1199, 27_000), YCC_420, costly_scans(16, components=3)
    ),
    "JPEG, 28 MP, progressive, CMYK": lambda: jpeg(
        (5700, 4900), CMYK, costly_scans(15, components=4)
    ),
    "PNG, 12.5 MP, 16-bit RGBA": lambda: large_png(16, 6, size=(4000, 3125)),
    "PNG, 16.7 MP, 16-bit RGB": lambda: large_png(16, 2, size=(5000, 3333)),
    "PNG, 20 MP, 16-bit grey and alpha": lambda: large_png(16, 4),
    "PNG, 20 MP, 16-bit grey, a transparent one": lambda: large_png(
        16, 0, extra=chunk(b"tRNS", bytes(2))
    ),
    "PNG, 20 MP, RGBA": lambda: large_png(8, 6),
    "PNG, 20 MP, RGB, a transparent colour": lambda: large_png(
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
        extra=packed_texts(2) + chunk(b"noTe", bytes(4_000_000)),
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
    "WebP, 20 MP, lossless, 1,792 sets of codes": lambda: lossless(
        LARGE, most_memory(LARGE, 1792)
    ),
    "WebP, 20 MP, alpha of 1,792 sets of codes, 2 MB of notes": lambda: lossless_alpha(
        LARGE,
        most_memory(LARGE, 1792),
        notes=[(b"noTe", b"")] * 9990 + [(b"EXIF", bytes(2_300_000))],
    ),
    "WebP, 1 MP, lossless, 9,216 sets of codes": lambda: lossless(
        (1000, 1000), most_memory((1000, 1000), 9216, block_bits=3)
    ),
    "WebP, 20 MP, lossless, two large transforms": lambda: lossless(
        LARGE,
        transform(PREDICTOR, told_noise(78_250))
        + transform(COLOUR, told_noise(78_250))
        + REAL_ZEROS,
    ),
    "WebP, 20 MP, 5 MB of notes": lambda: encoded(
        Image.new("RGBA", LARGE), "WEBP", method=0, exif=bytes(5_100_000)
    ),
    "WebP, 20 MP, 50 frames": lambda: animated("WEBP", 50, LARGE),
}


class Cost(NamedTuple):
    """What it takes to make an avatar."""

    seconds: float
    """Of all processors; the shortest of three times."""
    megabytes: float
    """How much the process grew at the most."""
    refusal: str | None


def cost_of(content: bytes) -> Cost:
    """Measure it here; the process should have done nothing large before."""
    for kind in ("JPEG", "PNG", "GIF", "WEBP"):
        process_profile_image(encoded(Image.new("RGB", (700, 700)), kind))
    before = peak_megabytes()
    refusal = seconds = None
    for _ in range(3):
        started = time.process_time()
        try:
            process_profile_image(content)
        except InvalidImage as error:
            refusal = str(error)
        seconds = min(time.process_time() - started, seconds or math.inf)
    return Cost(seconds or 0, peak_megabytes() - before, refusal)


def peak_megabytes() -> float:
    """The most memory that this process has had so far."""
    # Not getrusage: there a new process begins with what its parent had.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


if __name__ == "__main__":
    sys.stdout.write(json.dumps(cost_of(Path(sys.argv[1]).read_bytes())._asdict()))
