"""Hostile, damaged, and expensive pictures."""

import random
import zlib
from collections.abc import Callable
from functools import partial

import pytest

import image_utils
from config import settings
from image_utils import InvalidImage, process_profile_image
from tests.stress.pictures import (
    JPEG_LARGE,
    animated,
    chunk,
    encoded,
    gif,
    large_png,
    many_scans,
    noise,
    progressive,
    small_png,
)

LARGE = (5000, 4000)
# Create them on demand, because creating all of them takes minutes.
EXPENSIVE: dict[str, Callable[[], bytes]] = {
    # The narrowest 50-megapixel picture that is decoded at half size.
    "wide JPEG": partial(progressive, (65_000, 769)),
    # The largest picture that is decoded at full size. Half of its height is too small.
    "JPEG at full size": partial(progressive, (65_500, 599)),
    "JPEG of 20 scans": partial(many_scans, JPEG_LARGE, 20),
    "PNG": partial(large_png, LARGE),
    "WebP": lambda: encoded(
        noise(LARGE, "RGBA", grain=9), "WEBP", quality=0, exif=bytes(3_500_000)
    ),
}
# These also run without `--stress`. Each comes close to the limits in a different way.
SHORT = {"JPEG at full size", "PNG", "WebP"}
TEXT = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20), 9))
JPEG = encoded(noise((48, 36)), "JPEG")
# Small files that are ambiguous or expensive, and whether they are accepted.
HOSTILE = {
    "huge PNG": (small_png(size=(2**31 - 1, 2**31 - 1)), False),
    "PNG with missing pixels": (small_png(size=(90, 90)), False),
    "PNG of chunks": (small_png(chunk(b"noTe", b"") * 100_000), True),
    "PNG of 100 MB of text": (small_png(TEXT * 100), False),
    "huge GIF": (gif((65_535, 65_535)), False),
    "WebP of many frames": (animated("WEBP", 500), True),
    "JPEG of comments": (JPEG[:2] + b"\xff\xfe\0\2" * 99_999 + JPEG[2:], True),
    "JPEG after the start of a GIF": (b"GIF89a" + JPEG, False),
}
SMALL = [
    JPEG,
    small_png(),
    animated("GIF", 3),
    encoded(noise((48, 36), "RGBA"), "WEBP"),
    encoded(noise((48, 36), "CMYK"), "JPEG", progressive=True),
]


@pytest.fixture(autouse=True)
def long_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extend the timeout, so that tests don't fail on a busy machine."""
    monkeypatch.setattr(image_utils, "DECODE_TIMEOUT", 600)


@pytest.fixture(params=EXPENSIVE)
def expensive(request: pytest.FixtureRequest, stress: bool) -> bytes:
    if not stress and request.param not in SHORT:
        pytest.skip("runs only with --stress")
    return EXPENSIVE[request.param]()


def is_accepted(content: bytes) -> bool:
    """Return whether the app accepts a picture."""
    try:
        process_profile_image(content)
    except InvalidImage:
        return False
    return True


def mutated(rng: random.Random) -> bytes:
    """Return a file with changed bytes and, possibly, a repeated or missing part."""
    content = bytearray(rng.choice(SMALL))
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    start, end = sorted(rng.choices(range(len(content)), k=2))
    content[start:end] *= rng.choice([0, 1, 1, 2])
    return bytes(content)


def test_expensive_picture_is_within_limits(expensive):
    assert len(expensive) <= settings.max_upload_size_bytes
    assert is_accepted(expensive)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(name):
    content, accepted = HOSTILE[name]

    assert is_accepted(content) is accepted


def test_mutations(stress):
    rng = random.Random(1)
    count = 1000 if stress else 40

    outcomes = {is_accepted(mutated(rng)) for _ in range(count)}

    assert outcomes == {True, False}
