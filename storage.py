"""Storage for uploaded files: an S3 bucket, or local files under `var/media`."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync

from config import settings
from static_files import IMMUTABLE

# Maximum number of threads that wait for S3 at the same time.
limiter = CapacityLimiter(16)


class StorageError(Exception):
    """A file couldn't be stored or deleted."""


async def run_within(
    seconds: float, function: Callable[..., None], *arguments: object
) -> None:
    """Call a blocking function in a thread, or raise `TimeoutError` after `seconds`.

    The S3 client has timeouts too, but they don't include the wait for a thread.
    """
    with fail_after(seconds):
        await run_sync(function, *arguments, limiter=limiter, abandon_on_cancel=True)


def put(key: str, content: bytes, *, content_type: str) -> None:
    """Store an immutable file. Raise `StorageError` if that might have failed."""
    with _storage_errors():
        if settings.s3_bucket_name is None:
            _write_file(settings.media_dir / key, content)
        else:
            s3_client().put_object(
                Bucket=settings.s3_bucket_name,
                Key=key,
                Body=content,
                ContentType=content_type,
                CacheControl=IMMUTABLE,
            )


def delete(key: str) -> None:
    """Delete a file if it exists. Raise `StorageError` if that might have failed."""
    with _storage_errors():
        if settings.s3_bucket_name is None:
            (settings.media_dir / key).unlink(missing_ok=True)
        else:
            s3_client().delete_object(Bucket=settings.s3_bucket_name, Key=key)


def list_files(folder: str) -> Iterator[tuple[str, datetime]]:
    """Yield the names and modification times of the files, or raise `StorageError`."""
    prefix = f"{folder}/"
    with _storage_errors():
        if settings.s3_bucket_name is None:
            for path in (settings.media_dir / folder).glob("*"):
                yield path.name, datetime.fromtimestamp(path.stat().st_mtime, UTC)
            return
        pages = s3_client().get_paginator("list_objects_v2")
        # StartAfter skips the empty object that stands for a folder in the console.
        for page in pages.paginate(
            Bucket=settings.s3_bucket_name, Prefix=prefix, StartAfter=prefix
        ):
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(prefix), item["LastModified"]


@contextmanager
def _storage_errors() -> Iterator[None]:
    errors: tuple[type[Exception], ...] = (OSError,)
    if settings.s3_bucket_name is not None:
        # Imported on first use: importing boto3 takes 0.2 seconds and 25 MB of memory.
        from botocore.exceptions import BotoCoreError, ClientError

        errors += (BotoCoreError, ClientError)
    try:
        yield
    except errors as error:
        raise StorageError(f"{type(error).__name__}: {error}") from error


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.chmod(0o644)
        # Renaming is atomic, so clients never get an incomplete file.
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@cache
def s3_client() -> Any:
    """Return the S3 client, whose class boto3 creates at run time."""
    import boto3
    from botocore.config import Config

    key_id, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    return boto3.client(
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
