"""Avatars: image_utils, and the decoder that it runs in another process."""

import os
import signal
import subprocess
import sys
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
from PIL import ExifTags, Image, ImageChops, ImageFile, PngImagePlugin

import image_utils
from config import BASE_DIR
from image_decoder import make_avatar
from image_utils import InvalidImage, process_profile_image
from tests.conftest import PHOTO
from tests.stress.pictures import JPEG_LARGE, Size, encoded, gif, many_scans, noise

Color = tuple[int, int, int]
RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 180, 60), (30, 40, 220), (255, 255, 255)
GRAY = (90, 90, 90)


def avatar(content: bytes) -> Image.Image:
    return Image.open(BytesIO(make_avatar(content)))


def plain(mode: str, color: Any, size: Size = (64, 48)) -> Image.Image:
    return Image.new(mode, size, color)


def animated(kind: str, size: Size = (64, 48)) -> bytes:
    """Encode an animation of a red and a blue frame."""
    blue = plain("RGB", BLUE)
    return encoded(plain("RGB", RED, size), kind, save_all=True, append_images=[blue])


def palette() -> Image.Image:
    """Return a palette picture whose pixels all have index 0, which is red."""
    image = plain("P", 0)
    image.putpalette([*RED, *GREEN, *BLUE, *WHITE])
    return image


def quarters() -> Image.Image:
    """Return a picture with red and green above blue and white."""
    small = Image.new("RGB", (2, 2))
    small.putdata([RED, GREEN, BLUE, WHITE])
    return small.resize((320, 240), Image.Resampling.NEAREST)


def distance(image: Image.Image, color: Color) -> int:
    """Return the largest difference between a pixel and a color, in any channel."""
    difference = ImageChops.difference(image, Image.new("RGB", image.size, color))
    return max(high for _low, high in difference.getextrema())  # type: ignore[misc]


def corners(image: Image.Image) -> list[Color]:
    """Return the approximate colors of the four quarters, row by row."""
    colors = image.resize((2, 2), Image.Resampling.BOX).quantize(palette=palette())
    return list(colors.convert("RGB").get_flattened_data())  # type: ignore[arg-type]


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = orientation
    return data


@pytest.fixture
def decoded_sizes(monkeypatch: pytest.MonkeyPatch) -> set[Size]:
    """Record the sizes at which pictures are decoded."""
    sizes, load = set(), ImageFile.ImageFile.load

    def recording_load(image: ImageFile.ImageFile) -> Any:
        pixels = load(image)
        sizes.add(image.size)
        return pixels

    monkeypatch.setattr(ImageFile.ImageFile, "load", recording_load)
    return sizes


class TestAvatar:
    def test_format(self):
        image = avatar(PHOTO)

        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (300, 300))

    def test_name_is_a_random_uuid(self):
        _, first = process_profile_image(PHOTO)
        _, second = process_profile_image(PHOTO)

        assert first != second
        assert first == f"{UUID(first[:-4], version=4).hex}.jpg"

    def test_pixels(self):
        square = Image.open(BytesIO(PHOTO)).crop((80, 0, 560, 480))
        resized = square.resize((300, 300), Image.Resampling.LANCZOS)
        expected = Image.open(BytesIO(encoded(resized, "JPEG", quality=85)))

        assert avatar(PHOTO).tobytes() == expected.tobytes()

    @pytest.mark.parametrize(
        ("size", "middle"),
        [((900, 300), (300, 0, 600, 300)), ((300, 900), (0, 300, 300, 600))],
        ids=["wide", "tall"],
    )
    def test_center_is_cropped(self, size, middle):
        image = plain("RGB", RED, size)
        image.paste(GREEN, middle)

        assert distance(avatar(encoded(image, "PNG")), GREEN) <= 8

    @pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1)])
    def test_tiny_picture_is_enlarged(self, size):
        image = avatar(encoded(plain("RGB", RED, size), "JPEG"))

        assert image.size == (300, 300)
        assert distance(image, RED) <= 8

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
    def test_has_no_metadata(self, kind):
        data = exif(1)
        data[ExifTags.Base.Artist] = "Secret person"
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Comment", "Secret text")
        metadata = {"exif": data, "icc_profile": b"Secret profile", "pnginfo": texts}
        metadata |= {"comment": b"Secret comment", "xmp": b"Secret XMP"}
        content = encoded(quarters(), kind, **metadata)

        picture = make_avatar(content)

        assert b"Secret" in content
        assert b"Secret" not in picture
        assert all("jfif" in name for name in Image.open(BytesIO(picture)).info)


COLORS = {
    "1 PNG": (encoded(plain("1", 1), "PNG"), WHITE),
    "L PNG": (encoded(plain("L", 90), "PNG"), GRAY),
    "P PNG": (encoded(palette(), "PNG"), RED),
    "I;16 PNG": (encoded(plain("I;16", 90 * 257), "PNG"), GRAY),
    "CMYK JPEG": (encoded(plain("CMYK", (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "MPO": (animated("MPO"), RED),
    "GIF": (animated("GIF"), RED),
    "WebP": (animated("WEBP"), RED),
}
TRANSPARENT = {
    "RGBA PNG": encoded(plain("RGBA", (*RED, 0)), "PNG"),
    "LA PNG": encoded(plain("LA", (0, 0)), "PNG"),
    "P PNG": encoded(palette(), "PNG", transparency=b"\0\xff"),
    "GIF": encoded(palette(), "GIF", transparency=0),
    "WebP": encoded(plain("RGBA", (*RED, 0)), "WEBP"),
}


class TestColors:
    @pytest.mark.parametrize("name", COLORS)
    def test_color_of_first_frame_is_kept(self, name):
        content, color = COLORS[name]

        image = avatar(content)

        assert image.mode == "RGB"
        assert distance(image, color) <= 8

    @pytest.mark.parametrize("name", TRANSPARENT)
    def test_transparent_pixels_become_white(self, name):
        assert distance(avatar(TRANSPARENT[name]), WHITE) <= 1

    def test_half_transparent_pixels(self):
        image = avatar(encoded(plain("RGBA", (0, 0, 0, 128)), "PNG"))

        assert distance(image, (127, 127, 127)) <= 2

    def test_canvas_around_a_gif_becomes_white(self):
        content = gif((300, 300)).replace(b",\0\0\0\0", b",\x64\0\xc8\0")

        image = avatar(content)

        assert image.getpixel((104, 204)) == (0, 0, 0)
        assert image.getpixel((150, 150)) == WHITE

    def test_hidden_pixels_do_not_bleed(self):
        image = plain("RGBA", (0, 0, 0, 0), (600, 600))
        image.paste(WHITE, (0, 0, 300, 600))

        assert distance(avatar(encoded(image, "PNG")), WHITE) <= 1


XMP = '<rdf:Description tiff:Orientation="6"/>'


class TestOrientation:
    @pytest.mark.parametrize(
        ("orientation", "expected"),
        [
            # Exif 2.32, section 4.6.4, tag 0x0112.
            (2, [GREEN, RED, WHITE, BLUE]),
            (6, [BLUE, RED, WHITE, GREEN]),
            (9, [RED, GREEN, BLUE, WHITE]),
        ],
    )
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_picture_is_upright(self, kind, orientation, expected):
        image = avatar(encoded(quarters(), kind, exif=exif(orientation)))

        assert corners(image) == expected

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_xmp_is_ignored(self, kind):
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", XMP)

        image = avatar(encoded(quarters(), kind, xmp=XMP.encode(), pnginfo=texts))

        assert corners(image) == [RED, GREEN, BLUE, WHITE]

    def test_exif_after_the_pixels(self):
        png = encoded(quarters(), "PNG", exif=exif(6))
        start, end = png.index(b"eXIf") - 4, png.index(b"IDAT") - 4

        image = avatar(png[:start] + png[end:-12] + png[start:end] + png[-12:])

        assert corners(image) == [BLUE, RED, WHITE, GREEN]

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    @pytest.mark.parametrize(
        "data",
        [
            b"Exif\0\0nonsense",
            b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\4six\0\0\0\0\0",
        ],
        ids=["no TIFF", "a word"],
    )
    def test_broken_exif_is_ignored(self, data):
        image = avatar(encoded(quarters(), "JPEG", exif=data))

        assert corners(image) == [RED, GREEN, BLUE, WHITE]


class TestLimits:
    @pytest.mark.parametrize(
        ("kind", "size"), [("GIF", (5000, 4000)), ("JPEG", (10_000, 5000))]
    )
    def test_largest_picture(self, kind, size):
        assert make_avatar(encoded(plain("L", 90, size), kind))

    def test_large_jpeg_with_two_frames(self):
        assert make_avatar(animated("MPO", (6000, 4000)))

    @pytest.mark.parametrize(
        "content",
        [gif((5000, 4001)), encoded(plain("L", 90, (10_000, 5001)), "JPEG")],
        ids=["GIF", "JPEG"],
    )
    def test_too_many_pixels_are_not_decoded(self, content, decoded_sizes):
        with pytest.raises(ValueError, match="too many"):
            make_avatar(content)

        assert decoded_sizes == set()

    @pytest.mark.parametrize(
        ("size", "decoded"),
        # Above 20 megapixels, decoding at half the usual scale saves memory.
        [((4000, 3000), (1000, 750)), ((6000, 4000), (750, 500))],
    )
    @pytest.mark.parametrize("kind", ["JPEG", "MPO"])
    def test_jpeg_is_decoded_at_reduced_scale(self, kind, size, decoded, decoded_sizes):
        content = encoded(plain("RGB", RED, size), kind)
        decoded_sizes.clear()

        make_avatar(content)

        assert decoded_sizes == {decoded}


class TestInvalidImage:
    @pytest.mark.parametrize(
        "content",
        [b"", b"<svg/>", encoded(palette(), "BMP"), encoded(quarters(), "EPS")],
        ids=["empty", "SVG", "BMP", "EPS"],
    )
    def test_other_formats(self, content):
        with pytest.raises(InvalidImage):
            process_profile_image(content)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
    def test_truncated_file(self, kind):
        content = encoded(noise((160, 120)), kind)

        with pytest.raises(InvalidImage):
            process_profile_image(content[: len(content) * 9 // 10])


def run_python(program: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=BASE_DIR, input=b"", capture_output=True
    )


def replace_decoder(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(image_utils, "DECODER", (sys.executable, "-c", program))


class TestDecoder:
    def test_too_much_cpu_time(self, monkeypatch):
        # On a busy machine, four seconds of CPU time may exceed the usual timeout.
        monkeypatch.setattr(image_utils, "DECODE_TIMEOUT", 600)

        with pytest.raises(InvalidImage, match=f"{-signal.SIGXCPU}"):
            process_profile_image(many_scans(JPEG_LARGE, 1000))

    @pytest.mark.skipif(sys.platform != "linux", reason="macOS has no such limit")
    def test_too_much_memory(self):
        program = "import image_decoder; image_decoder.make_avatar = lambda _: "

        decoder = run_python(program + "bytearray(2**29); image_decoder.main()")

        assert decoder.returncode == os.EX_DATAERR
        assert b"MemoryError" in decoder.stderr

    @pytest.mark.parametrize(
        ("module", "unused"), [("image_decoder", b"config"), ("main", b"PIL")]
    )
    def test_unused_modules_are_not_imported(self, module, unused):
        imported = run_python(f"import {module}, sys; print(*sys.modules)").stdout

        assert module.encode() in imported.split()
        assert unused not in imported.split()

    def test_warnings_are_not_printed(self, capfd):
        process_profile_image(encoded(quarters(), "JPEG", exif=b"Exif\0\0nonsense"))

        assert capfd.readouterr() == ("", "")

    def test_has_a_session_but_no_secrets(self, monkeypatch):
        program = "import os; print(os.getsid(0) == os.getpid(), *os.environ)"
        replace_decoder(monkeypatch, program)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

        output, _ = process_profile_image(PHOTO)

        has_session, *names = output.decode().split()
        assert has_session == "True"
        assert not {"SECRET_KEY", "AWS_SECRET_ACCESS_KEY"} & {*names}

    def test_timeout(self, monkeypatch):
        monkeypatch.setattr(image_utils, "DECODE_TIMEOUT", 0.001)

        with pytest.raises(TimeoutError):
            process_profile_image(PHOTO)

    @pytest.mark.parametrize(
        ("program", "error"),
        [
            ("import os; os.kill(os.getpid(), 11)", InvalidImage),
            ("import os; os.kill(os.getpid(), 9)", ChildProcessError),
            ("import missing", ChildProcessError),
        ],
    )
    def test_exit_status(self, monkeypatch, program, error):
        replace_decoder(monkeypatch, program)

        with pytest.raises(error):
            process_profile_image(PHOTO)
