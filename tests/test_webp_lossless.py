"""How many sets of codes a WebP can have; most are written here bit by bit."""

import random
from typing import Any

import pytest
from PIL import Image

from image_utils import InvalidImage, process_profile_image
from tests.torture.pictures import (
    COLOUR,
    COLOUR_INDEXING,
    ONLY_ZERO,
    PREDICTOR,
    REAL_ZEROS,
    SUBTRACT_GREEN,
    TOLD_ZEROS,
    Size,
    animated,
    canvas,
    code_words,
    encoded,
    flipped,
    lossless,
    lossless_alpha,
    lossless_frame,
    many_sets,
    noise,
    number,
    prefix_code,
    told_noise,
    torn,
    transform,
    vp8l,
    webp,
)
from webp_lossless import MAX_CHUNKS, MAX_SYMBOLS, code_sets

SIZE = (160, 120)


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Nothing is stored here, and making a bucket takes longer than these tests do."""


def random_code(chance: random.Random, size: int) -> tuple[str, dict[int, str]]:
    """A code for some of so many symbols, as it is written, and its words."""
    lengths = [0]
    for _ in range(chance.choice((0, 1, 9, 39))):
        length = lengths.pop(chance.randrange(min(len(lengths), 5)))
        lengths = sorted([*lengths, length + 1, length + 1])
    if lengths == [0]:
        return ONLY_ZERO, {0: ""}
    symbols = [0, *chance.sample(range(1, size), len(lengths) - 1)]
    used = dict(zip(symbols, lengths, strict=True))
    all_lengths = [used.get(symbol, 0) for symbol in range(size)]
    return prefix_code(all_lengths), code_words(all_lengths)


def random_rest(chance: random.Random, symbol: int) -> tuple[str, int]:
    """What follows the symbol of a length, and which it is (section 3.6.2.2)."""
    if symbol < 4:
        return "", symbol + 1
    width = symbol // 2 - 1
    rest = chance.getrandbits(width)
    return number(rest, width), (2 + symbol % 2) * 2**width + rest + 1


def random_image(chance: random.Random, pixels: int) -> str:
    """The bits of a picture that tells a transform, of all that there can be in one."""
    cache_bits = chance.choice((0, 2, 11))
    cached = 2**cache_bits if cache_bits else 0
    codes = [random_code(chance, size) for size in (280 + cached, 256, 256, 256, 40)]
    green, *others, distance = (words for _written, words in codes)
    bits = ["1" + number(cache_bits, 4) if cached else "0"]
    bits += [written for written, _words in codes]
    while pixels > 0:
        symbol, word = chance.choice([*green.items()])
        bits.append(word)
        count = 1
        if symbol < 256:
            bits += [chance.choice([*words.values()]) for words in others]
        elif symbol < 280:
            rest, count = random_rest(chance, symbol - 256)
            symbol, word = chance.choice([*distance.items()])
            bits += [rest, word, random_rest(chance, symbol)[0]]
        pixels -= count
    return "".join(bits)


def random_transforms(chance: random.Random, size: Size) -> str:
    """The bits of some transforms of a picture, in any order."""
    width, height = size
    bits = ""
    for kind in chance.sample(range(4), chance.randint(1, 4)):
        if kind == SUBTRACT_GREEN:
            bits += "1" + number(kind, 2)
        elif kind == COLOUR_INDEXING:
            colours = chance.choice((1, 2, 3, 4, 5, 16, 17, 256))
            told = random_image(chance, colours)
            bits += "1" + number(kind, 2) + number(colours - 1, 8) + told
            per_pixel = 8 if colours < 3 else 4 if colours < 5 else 2
            width = -(-width // (per_pixel if colours < 17 else 1))
        else:
            block_bits = chance.randint(2, 9)
            blocks = -(-width // 2**block_bits) * -(-height // 2**block_bits)
            bits += transform(kind, random_image(chance, blocks), block_bits=block_bits)
    return bits


def is_read(content: bytes) -> bool:
    """Whether it becomes an avatar, and is not refused."""
    try:
        process_profile_image(content)
    except InvalidImage:
        return False
    return True


@pytest.mark.parametrize("sets", [512, 2816, 65_536])
@pytest.mark.parametrize("make", [lossless, lossless_alpha, lossless_frame])
def test_sets_are_counted_wherever_the_picture_is(make: Any, sets: int) -> None:
    content = make(SIZE, many_sets(SIZE, sets))

    assert code_sets(content) == sets


@pytest.mark.parametrize("seed", range(100))
def test_sets_are_counted_behind_any_transforms(seed: int) -> None:
    chance = random.Random(seed)
    size = (chance.randint(1, 300), chance.randint(1, 300))
    transforms = random_transforms(chance, size)
    sets = 256 * chance.randint(2, 256)

    content = lossless(size, many_sets((1, 1), sets, transforms=transforms))

    assert code_sets(content) == sets


@pytest.mark.parametrize("make", [lossless, lossless_alpha, lossless_frame])
def test_picture_with_one_set_has_one(make: Any) -> None:
    assert code_sets(make(SIZE, REAL_ZEROS)) == 1


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encoded(noise(SIZE), "WEBP"), id="no alpha"),
        pytest.param(animated("WEBP", 3), id="animation"),
        pytest.param(
            webp(
                (b"VP8X", canvas(SIZE, 0x10)),
                (b"ALPH", bytes(1 + SIZE[0] * SIZE[1])),
                (b"VP8 ", encoded(Image.new("RGB", SIZE), "WEBP")[20:]),
            ),
            id="alpha that is not packed",
        ),
    ],
)
def test_picture_with_loss_has_no_sets(content: bytes) -> None:
    assert code_sets(content) == 0
    assert is_read(content)


@pytest.mark.parametrize("method", [0, 3, 6])
@pytest.mark.parametrize("quality", [0, 100])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (130, 90)])
def test_picture_as_encoders_make_it_is_read(
    size: Size, mode: str, quality: int, method: int
) -> None:
    image = noise(size, "RGBA").convert(mode)

    content = encoded(image, "WEBP", lossless=True, quality=quality, method=method)

    assert 1 <= code_sets(content) <= 256
    assert is_read(content)


@pytest.mark.parametrize("alpha_quality", [0, 50, 100])
@pytest.mark.parametrize("method", [0, 3, 6])
def test_alpha_as_encoders_make_it_is_read(method: int, alpha_quality: int) -> None:
    image = noise(SIZE, "RGBA", grain=4)

    content = encoded(image, "WEBP", method=method, alpha_quality=alpha_quality)

    assert code_sets(content) <= 256
    assert is_read(content)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            lossless(SIZE, transform(PREDICTOR, TOLD_ZEROS) * 2 + REAL_ZEROS),
            id="a transform twice",
        ),
        pytest.param(
            lossless(
                (5000, 4000),
                transform(COLOUR, told_noise(MAX_SYMBOLS + 1), block_bits=3),
            ),
            id="a transform that takes long to read",
        ),
        pytest.param(
            webp(vp8l(SIZE, REAL_ZEROS), *[(b"noTe", b"")] * MAX_CHUNKS),
            id="a chunk too many",
        ),
        pytest.param(
            webp((b"VP8L", vp8l(SIZE, REAL_ZEROS)[1][:5])), id="nothing but a header"
        ),
        pytest.param(webp((b"VP8X", canvas(SIZE))), id="no picture"),
    ],
)
def test_what_cannot_be_read_or_takes_long_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"twice|too many|cut off|no picture"):
        code_sets(content)


SMALL = {
    "lossless": encoded(noise((12, 9), "RGBA", grain=3), "WEBP", lossless=True),
    "few colours": encoded(noise((40, 9), "1"), "WEBP", lossless=True, method=6),
    "alpha": encoded(noise((12, 9), "RGBA", grain=3), "WEBP"),
    "animation": animated("WEBP", 2, (9, 9)),
    "two transforms": lossless(
        (9, 9),
        transform(PREDICTOR, told_noise(1))
        + transform(COLOUR, told_noise(1))
        + REAL_ZEROS,
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_cut_off_anywhere_is_refused(name: str) -> None:
    content = SMALL[name]

    read = [end for end in range(len(content)) if is_read(content[:end])]

    assert is_read(content)
    assert read == []


@pytest.mark.parametrize("damage", [flipped, torn])
@pytest.mark.parametrize("name", SMALL)
def test_damaged_is_read_or_refused_but_nothing_else(name: str, damage: Any) -> None:
    chance = random.Random(name)

    read = [is_read(damage(SMALL[name], chance)) for _ in range(100)]

    assert False in read
