"""What a WebP asks of its decoder and its size does not tell, read from its first bits.

A module of its own, as it is about a format of its own: that of RFC 9649. Its sections
are named here.
"""

import math
import struct

# libwebp keeps a note of each, which takes 4 MB for so many. A frame of an animation is
# two of them.
MAX_CHUNKS = 10_000
# In a picture that tells a transform. If encoders give it many pixels, each of them is
# for a block of 16 x 16, of which 20 megapixels have 79,120. To read these takes 50 ms.
MAX_SYMBOLS = 80_000

FILE_HEADER_BYTES, FRAME_HEADER_BYTES = 12, 16
IS_LOSSLESS = 1
SUBTRACT_GREEN, COLOUR_INDEXING = 2, 3
# In the code for green, the lengths of copies come after the bytes, and the colours in
# the cache after them.
BYTES, LENGTHS, DISTANCES = 256, 24, 40
# Of each symbol for a length or distance: how many bits follow it, and the least it is.
PREFIXES = [(0, least) for least in range(1, 5)] + [
    (bits, ((2 + odd) << bits) + 1) for bits in range(1, 19) for odd in (0, 1)
]
# In which order the code for code lengths is written, and which of its symbols are not
# lengths but repetitions: how many bits follow, and how many times at least.
LENGTH_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
REPETITIONS = {16: (2, 3), 17: (3, 3), 18: (7, 11)}
REPEAT_LAST = 16

# For each value of as many bits as the longest word of a code has: the symbol that it
# begins with, and how many bits that takes.
Code = list[tuple[int, int]]


class _Bits:
    """The bits of a stream, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def ahead(self) -> int:
        """The next 65 bits at least, zeros after the end; four symbols take 60."""
        byte, bit = divmod(self.position, 8)
        return int.from_bytes(self._data[byte : byte + 9], "little") >> bit

    def number(self, width: int) -> int:
        value = self.ahead() & ((1 << width) - 1)
        self.position += width
        if self.position > 8 * len(self._data):
            raise ValueError("cut off")
        return value

    def symbol(self, code: Code) -> int:
        symbol, width = code[self.ahead() & (len(code) - 1)]
        self.position += width
        return symbol


def code_sets(webp: bytes) -> int:
    """How many sets of prefix codes the first picture in a WebP has at the most.

    Raises:
        Exception: Of whatever type; libwebp could not read it either, or not soon.
    """
    alpha = b""
    for kind, data in _chunks(webp):
        if kind == b"ALPH":
            alpha = data
        if kind == b"VP8L":
            return _sets_in_picture(data)
        if kind == b"VP8 ":
            return _sets_in_alpha(alpha, data)
    raise ValueError("no picture")


def _chunks(webp: bytes) -> list[tuple[bytes, bytes]]:
    """All chunks (section 2.3), with those in a frame behind it."""
    chunks: list[tuple[bytes, bytes]] = []
    position = FILE_HEADER_BYTES
    end = min(8 + int.from_bytes(webp[4:8], "little"), len(webp))
    while position + 8 <= end:
        if len(chunks) == MAX_CHUNKS:
            raise ValueError("too many chunks")
        kind, size = struct.unpack_from("<4sI", webp, position)
        position += 8
        chunks.append((kind, webp[position : position + size]))
        position += FRAME_HEADER_BYTES if kind == b"ANMF" else size + size % 2
    return chunks


def _sets_in_picture(vp8l: bytes) -> int:
    """The same for a picture without loss (section 3.4)."""
    bits = _Bits(vp8l)
    # Before the sides stands a signature, and behind them a flag and the version.
    bits.number(8)
    width, height = bits.number(14) + 1, bits.number(14) + 1
    bits.number(4)
    return _sets(bits, width, height)


def _sets_in_alpha(alph: bytes, vp8: bytes) -> int:
    """The same for the alpha of a picture with loss (section 2.7.1.2)."""
    if not alph or alph[0] & 3 != IS_LOSSLESS:
        return 0
    width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", vp8, 6))
    return _sets(_Bits(alph[1:]), width, height)


def _sets(bits: _Bits, width: int, height: int) -> int:
    seen = set()
    while bits.number(1):
        transform = bits.number(2)
        if transform in seen:
            raise ValueError("a transform twice")
        seen.add(transform)
        if transform == COLOUR_INDEXING:
            colours = bits.number(8) + 1
            _pass_over(bits, colours)
            # Of few colours several are in one pixel (section 3.5.4).
            width = math.ceil(width / (8 >> sum(colours > few for few in (2, 4, 16))))
        elif transform != SUBTRACT_GREEN:
            _pass_over(bits, _blocks(bits, width, height))
    _cached_colours(bits)
    if not bits.number(1):
        return 1
    _blocks(bits, width, height)
    # Now comes the picture that tells which block has which set: red and green of its
    # pixels are the number of the set (section 3.7.2.2).
    greens, reds = _codes(bits)[:2]
    green = max(symbol for symbol, _width in greens if symbol < BYTES)
    red = max(symbol for symbol, _width in reds)
    return (red << 8) + green + 1


def _blocks(bits: _Bits, width: int, height: int) -> int:
    """How many blocks there are, of the size that is told next."""
    side = 4 << bits.number(3)
    return math.ceil(width / side) * math.ceil(height / side)


def _pass_over(bits: _Bits, pixels: int) -> None:
    """Go to the end of a picture that tells a transform (section 3.6)."""
    green, *others, distance = _codes(bits)
    widths = [[width for _symbol, width in code] for code in others]
    distance_widths = [width + PREFIXES[symbol][0] for symbol, width in distance]
    for _ in range(MAX_SYMBOLS):
        if pixels <= 0:
            return
        ahead = bits.ahead()
        symbol, width = green[ahead & (len(green) - 1)]
        count = 1
        if symbol < BYTES:
            for code in widths:
                width += code[ahead >> width & (len(code) - 1)]
        elif symbol < BYTES + LENGTHS:
            more, least = PREFIXES[symbol - BYTES]
            count = least + (ahead >> width & ((1 << more) - 1))
            width += more
            width += distance_widths[ahead >> width & (len(distance) - 1)]
        bits.position += width
        pixels -= count
    raise ValueError("too many symbols")


def _codes(bits: _Bits) -> list[Code]:
    """The set of codes of a picture that has but one (sections 3.6.2.3 and 3.7.2)."""
    green = BYTES + LENGTHS + _cached_colours(bits)
    red = blue = alpha = BYTES
    sizes = (green, red, blue, alpha, DISTANCES)
    return [_code(_lengths(bits, size)) for size in sizes]


def _cached_colours(bits: _Bits) -> int:
    return 1 << bits.number(4) if bits.number(1) else 0


def _lengths(bits: _Bits, size: int) -> list[int]:
    """How long the words for the symbols are, 0 for those that do not occur."""
    if bits.number(1):
        has_second = bits.number(1)
        symbols = {bits.number(8 if bits.number(1) else 1)}
        if has_second:
            symbols.add(bits.number(8))
        return [int(symbol in symbols) for symbol in range(size)]
    code_lengths = [0] * len(LENGTH_ORDER)
    for symbol in LENGTH_ORDER[: 4 + bits.number(4)]:
        code_lengths[symbol] = bits.number(3)
    code = _code(code_lengths)
    left = 2 + bits.number(2 + 2 * bits.number(3)) if bits.number(1) else size
    lengths: list[int] = []
    last = 8
    while len(lengths) < size and left:
        left -= 1
        length, count = bits.symbol(code), 1
        if length in REPETITIONS:
            more, least = REPETITIONS[length]
            count = least + bits.number(more)
            length = last if length == REPEAT_LAST else 0
        lengths += [length] * count
        last = length or last
    return lengths + [0] * (size - len(lengths))


def _code(lengths: list[int]) -> Code:
    """The code whose words have these lengths (section 3.7.2.1)."""
    used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    if len(used) == 1:
        return [(used[0][1], 0)]
    longest = used[-1][0]
    code, word = [(0, 0)] * (1 << longest), 0
    for length, symbol in used:
        # The first bit of a word is its highest.
        first = int(f"{word:0{longest}b}"[::-1], 2)
        code[first :: 1 << length] = [(symbol, length)] * (1 << (longest - length))
        word += 1 << (longest - length)
    if word != len(code):
        raise ValueError("a code with words left over, or missing")
    return code
