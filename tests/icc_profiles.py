"""Build small ICC profiles (ICC.1:2001-04), because real ones are copyrighted."""

import struct
from itertools import product

ADOBE_RGB = (
    (0.6097, 0.3111, 0.0195),
    (0.2053, 0.6257, 0.0609),
    (0.1492, 0.0632, 0.7446),
)
DISPLAY_P3 = (
    (0.5151, 0.2412, -0.001),
    (0.292, 0.6922, 0.0419),
    (0.1571, 0.0666, 0.7841),
)
D50 = (0.9642, 1.0, 0.8249)


def profile(space: bytes, pcs: bytes, **tags: bytes) -> bytes:
    """Return a profile with these tags. Each name has four characters."""
    offset = 128 + 4 + 12 * len(tags)
    table, data = b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), offset + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x12s48x",
        offset + len(data),
        0x02100000,
        b"prtr" if space == b"CMYK" else b"mntr",
        space,
        pcs,
        b"acsp",
        struct.pack(">3i", *(round(value * 65536) for value in D50)),
    )
    return header + struct.pack(">I", len(tags)) + table + data


def xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def rgb_profile(primaries: tuple[tuple[float, ...], ...], exponent: float) -> bytes:
    colors = {f"{name}XYZ": xyz(c) for name, c in zip("rgb", primaries, strict=True)}
    curves = {f"{name}TRC": gamma(exponent) for name in "rgb"}
    return profile(b"RGB ", b"XYZ ", wtpt=xyz(D50), **colors, **curves)


def gray_profile(exponent: float) -> bytes:
    return profile(b"GRAY", b"XYZ ", wtpt=xyz(D50), kTRC=gamma(exponent))


def cmyk_profile() -> bytes:
    """Return a profile that turns cyan into red, which no default conversion does."""
    ramp = bytes(range(256))
    red, white, black = (136, 208, 195), (255, 128, 128), (0, 128, 128)
    colors = [
        black if k else red if c else white
        for c, _m, _y, k in product((0, 1), repeat=4)
    ]
    table = struct.pack(">4s4xBBBx9i", b"mft1", 4, 3, 2, *(0,) * 9)
    table += ramp * 4 + bytes(sum(colors, ())) + ramp * 3
    return profile(b"CMYK", b"Lab ", wtpt=xyz(D50), A2B0=table)
