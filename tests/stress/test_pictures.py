"""Hostile, damaged, and expensive pictures."""

import random

import pytest

import image_utils
from config import settings
from image_utils import InvalidImage, process_profile_image
from tests.stress.pictures import SMALL, WORST, hostile_files, mutated

HOSTILE = hostile_files()
# One for each way to approach the limits; all of them take minutes.
SHORT = {
    "JPEG, 39 MP, progressive, CMYK",
    "PNG, 20 MP, 16-bit RGBA",
    "WebP, 20 MP, much EXIF",
}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the decoder's own limits apply, however busy the machine is."""
    monkeypatch.setattr(image_utils, "DECODE_TIMEOUT", 600)


@pytest.fixture(params=WORST)
def expensive(request: pytest.FixtureRequest, stress: bool) -> bytes:
    if not stress and request.param not in SHORT:
        pytest.skip("runs with --stress")
    return WORST[request.param]()


def is_accepted(content: bytes) -> bool:
    """Return whether a picture is converted; errors of the server are raised."""
    try:
        process_profile_image(content)
    except InvalidImage:
        return False
    return True


def test_expensive_picture_is_within_limits(expensive: bytes) -> None:
    assert len(expensive) <= settings.max_upload_size_bytes
    assert is_accepted(expensive)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(name: str) -> None:
    content, accepted = HOSTILE[name]

    assert is_accepted(content) is accepted


def test_mutations(stress: bool) -> None:
    rng = random.Random(1)
    count = 1000 if stress else 40

    outcomes = {is_accepted(mutated(rng.choice(SMALL), rng)) for _ in range(count)}

    assert outcomes == {True, False}
