"""Process, store and delete profile pictures."""

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from config import BASE_DIR, Settings, settings

DECODER = (sys.executable, "-W", "ignore", str(BASE_DIR / "image_decoder.py"))
# Includes waiting for a busy machine; image_decoder.py limits the CPU time.
DECODE_TIMEOUT = 15.0
# Exit statuses of the decoder for a picture that is invalid, takes too much CPU time,
# or crashes one of Pillow's libraries.
INVALID_IMAGE_STATUSES = {
    os.EX_DATAERR,
    -signal.SIGXCPU,
    -signal.SIGABRT,
    -signal.SIGBUS,
    -signal.SIGFPE,
    -signal.SIGSEGV,
}

FOLDER = "profile_pics"
# A stored picture never changes; a new picture gets a new name.
CACHE_CONTROL = "public, max-age=31536000, immutable"


class InvalidImage(Exception):
    """An upload is not a picture, is damaged, or exceeds the decoder's limits."""


class StorageError(Exception):
    """A picture could not be stored or deleted."""


def process_profile_image(content: bytes) -> tuple[bytes, str]:
    """Convert an uploaded JPEG, PNG, GIF or WebP into an avatar.

    Blocks until a separate process (`image_decoder.py`) has decoded the picture.

    Returns:
        A JPEG of 300 x 300 pixels (RGB, upright, no metadata), and `<uuid4 hex>.jpg`.

    Raises:
        InvalidImage: Pillow can't decode it, it has too many pixels, or it takes more
            CPU time or memory than the decoder may use.
        TimeoutError: The machine is too busy to decode it.
        OSError: The decoder could not be started or ended unexpectedly.
    """
    try:
        decoder = subprocess.run(
            DECODER,
            input=content,
            capture_output=True,
            check=False,
            timeout=DECODE_TIMEOUT,
            # On Ctrl+C the server finishes uploads in progress, so the signal must not
            # reach the decoder.
            start_new_session=True,
            env=_environment_without_secrets(),
        )
    except subprocess.TimeoutExpired as exc:
        raise TimeoutError(f"not decoded within {DECODE_TIMEOUT:g} s") from exc
    if decoder.returncode == 0:
        return decoder.stdout, f"{uuid.uuid4().hex}.jpg"
    error = decoder.stderr.decode(errors="replace")
    reason = f"decoder exited with {decoder.returncode}: {error}"
    if decoder.returncode in INVALID_IMAGE_STATUSES:
        raise InvalidImage(reason)
    raise ChildProcessError(reason)


def _environment_without_secrets() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in Settings.model_fields and not name.startswith("AWS_")
    }


def upload_profile_image(content: bytes, filename: str) -> None:
    """Store an avatar; raise `StorageError` if that failed, or may have failed."""
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
    """Delete an avatar if it exists; raise `StorageError` if that may have failed."""
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
        # Atomic, so that clients never get half a picture.
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


@cache
def s3_session() -> boto3.session.Session:
    """Return the session that creates clients; it caches service definitions."""
    return boto3.session.Session()


@cache
def s3_client() -> Any:
    """Return the S3 client; boto3 creates its type at run time."""
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
            # S3-compatible services rarely have a host name for each bucket.
            s3={"addressing_style": "path" if settings.s3_endpoint_url else "virtual"},
        ),
    )
