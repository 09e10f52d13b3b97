"""Avatars have the same colors as the uploaded picture in a browser."""

from base64 import b64encode
from io import BytesIO
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page

from image_decoder import make_avatar
from tests.icc_profiles import ADOBE_RGB, DISPLAY_P3, gray_profile, rgb_profile

PIXEL = """async (content) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes]));
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [...context.getImageData(150, 150, 1, 1).data].slice(0, 3);
}"""


def color_in_browser(page: Page, content: bytes) -> list[int]:
    color: list[int] = page.evaluate(PIXEL, b64encode(content).decode())
    return color


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("mode", "color", "profile"),
    [
        ("RGB", (112, 179, 72), rgb_profile(ADOBE_RGB, 2.2)),
        ("RGB", (200, 60, 40), rgb_profile(DISPLAY_P3, 2.2)),
        ("RGB", (112, 179, 72), b"unusable"),
        ("L", 100, gray_profile(1.4)),
    ],
    ids=["Adobe RGB", "Display P3", "unusable", "gray"],
)
def test_avatar_has_the_colors_of_the_upload(
    page: Page, mode: str, color: Any, profile: bytes, file_format: str
) -> None:
    file = BytesIO()
    image = Image.new(mode, (300, 300), color)
    image.save(file, file_format, icc_profile=profile, quality=100)

    avatar = make_avatar(file.getvalue())

    expected = color_in_browser(page, file.getvalue())
    assert color_in_browser(page, avatar) == pytest.approx(expected, abs=6)
