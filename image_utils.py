"""Profile pictures: made from uploads, put where they are kept, deleted there."""

import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from PIL import ExifTags, Image

from config import settings

SIZE = (300, 300)
QUALITY = 85
# Decoders that an upload can reach. MPO is what Pillow calls a JPEG with several
# pictures in it, as some cameras write them.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
JPEG_FORMATS = {"JPEG", "MPO"}
# JPEG is decoded at a reduced scale, the others at full size.
MAX_JPEG_PIXELS = 50_000_000
MAX_PIXELS = 20_000_000
JPEG_START = b"\xff\xd8"
JPEG_SCAN = b"\xff\xda"
MAX_JPEG_SCANS = 100
# What undoes each orientation that EXIF 2.32 (section 4.6.4, tag 0x0112) knows.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FOLDER = "profile_pics"
# A stored picture never changes: a new one gets a new name.
CACHE_CONTROL = "public, max-age=31536000, immutable"

# Pillow warns above this size and raises above twice of it; here both are an error.
Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)


class InvalidImage(Exception):
    """What was uploaded is no picture that can be read to its end."""


class StorageError(Exception):
    """A picture could not be stored or deleted."""


def process_profile_image(content: bytes) -> tuple[bytes, str]:
    """Turn an uploaded JPEG, PNG, GIF or WebP of checked size into an avatar.

    Returns:
        A JPEG of 300 x 300 pixels (RGB, upright, no metadata), and `<uuid4 hex>.jpg`.

    Raises:
        InvalidImage: Pillow cannot read it to its end, or it has too many pixels.
    """
    # Each scan goes over the whole picture again, and thousands fit into a small file.
    # The marker cannot occur in the coded data itself (ITU-T T.81, section B.1.1.5).
    if content.count(JPEG_SCAN) > MAX_JPEG_SCANS and content.startswith(JPEG_START):
        raise InvalidImage("too many scans")
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            return _encode(_avatar(image)), f"{uuid.uuid4().hex}.jpg"
    # Everything: on damaged files Pillow's decoders raise whatever their parsing runs
    # into (OSError, SyntaxError, struct.error, ValueError, IndexError, zlib.error...).
    except Exception as error:
        raise InvalidImage(f"{type(error).__name__}: {error}") from error


def _avatar(image: Image.Image) -> Image.Image:
    is_jpeg = image.format in JPEG_FORMATS
    if image.width * image.height > (MAX_JPEG_PIXELS if is_jpeg else MAX_PIXELS):
        raise InvalidImage(f"{image.width} x {image.height} pixels are too many")
    if is_jpeg:
        # Twice the size leaves Lanczos enough to work with.
        image.draft(None, (2 * SIZE[0], 2 * SIZE[1]))
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    small = _on_white(_cropped(_resizable(image)))
    # Turning the small picture is the same as turning the large one, as the crop is the
    # square in its middle.
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return small if turn is None else small.transpose(turn)


def _resizable(image: Image.Image) -> Image.Image:
    """The picture in a mode in which neighbouring pixels can be mixed."""
    if image.mode.startswith("I;16"):
        image = _in_8_bits(image)
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        return image.convert("RGBA")
    if image.mode in ("1", "P"):
        return image.convert("RGB")
    return image


def _in_8_bits(image: Image.Image) -> Image.Image:
    grey = image.point(lambda value: value / 256).convert("L")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.info["transparency"] = transparent // 256
    return grey


def _cropped(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize(
        SIZE,
        Image.Resampling.LANCZOS,
        box=(left, top, left + side, top + side),
        # A cheap first step down to three times the size; it cannot be told apart.
        reducing_gap=3.0,
    )


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "RGBA"):
        return image.convert("RGB")
    background = Image.new("RGBA", image.size, "white")
    background.alpha_composite(image.convert("RGBA"))
    return background.convert("RGB")


def _encode(image: Image.Image) -> bytes:
    # What the decoder found in the file (EXIF, ICC, comments) would be written again.
    image.info.clear()
    output = BytesIO()
    image.save(output, "JPEG", quality=QUALITY, optimize=True)
    return output.getvalue()


def upload_profile_image(content: bytes, filename: str) -> None:
    """Store an avatar where browsers find it. Blocks for some seconds at the most.

    Raises:
        StorageError: It could not be stored, or nobody knows whether it was.
    """
    with _storage_errors():
        if settings.s3_bucket_name is None:
            _write_file(settings.media_dir / FOLDER / filename, content)
        else:
            s3_client().put_object(
                Bucket=settings.s3_bucket_name,
                Key=f"{FOLDER}/{filename}",
                Body=content,
                ContentType="image/jpeg",
                CacheControl=CACHE_CONTROL,
            )


def delete_profile_image(filename: str) -> None:
    """Delete a stored avatar; one that is not there is no error.

    Raises:
        StorageError: It could not be deleted, or nobody knows whether it was.
    """
    with _storage_errors():
        if settings.s3_bucket_name is None:
            (settings.media_dir / FOLDER / filename).unlink(missing_ok=True)
        else:
            s3_client().delete_object(
                Bucket=settings.s3_bucket_name, Key=f"{FOLDER}/{filename}"
            )


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError, OSError) as error:
        raise StorageError(f"{type(error).__name__}: {error}") from error


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.chmod(0o644)
        # This is what makes it visible: nobody is served half a picture.
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


@cache
def s3_session() -> boto3.session.Session:
    """What clients are made from; it has read what boto3 knows of the service."""
    return boto3.session.Session()


@cache
def s3_client() -> Any:
    """The client of the bucket's service; boto3 makes its type at run time."""
    key_id, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    return s3_session().client(
        "s3",
        region_name=settings.s3_region,
        endpoint_url=settings.s3_endpoint_url,
        aws_access_key_id=key_id.get_secret_value() if key_id else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            connect_timeout=2,
            read_timeout=4,
            retries={"mode": "standard", "total_max_attempts": 2},
            # A service under another address seldom has a name for every bucket.
            s3={"addressing_style": "path" if settings.s3_endpoint_url else "virtual"},
        ),
    )
