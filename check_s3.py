"""Verify S3 credentials and permissions: `python check_s3.py`.

Exits with status 0 if every step works, and with 1 otherwise.
"""

import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple
from urllib.error import URLError

from botocore.exceptions import BotoCoreError, ClientError

from config import settings
from image_utils import FOLDER, delete_profile_image, upload_profile_image
from storage import StorageError, s3_client

CONTENT = b"Written by check_s3.py. You can delete this file."
PUBLIC_READ_TIMEOUT = 10


class Step(NamedTuple):
    """The result of one step."""

    name: str
    is_ok: bool
    message: str


class CheckFailed(Exception):
    """A step failed. The message says what to check."""


def check_credentials() -> str:
    """Check that credentials are configured, and that they can list the pictures."""
    try:
        s3_client().list_objects_v2(
            Bucket=settings.s3_bucket_name, Prefix=f"{FOLDER}/", MaxKeys=1
        )
    except (BotoCoreError, ClientError) as error:
        raise CheckFailed(
            f"{error}. Check S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY (or the task "
            "role), S3_REGION and S3_BUCKET_NAME. The policy must allow s3:ListBucket "
            f"with the prefix {FOLDER}/."
        ) from error
    return f"bucket {settings.s3_bucket_name} is accessible"


def check_put(filename: str) -> str:
    try:
        upload_profile_image(CONTENT, filename)
    except StorageError as error:
        raise CheckFailed(f"{error}. The policy must allow s3:PutObject.") from error
    return f"{FOLDER}/{filename} stored"


def check_public_read(filename: str) -> str:
    """Check that the test object can be read without credentials, as in a browser."""
    url = f"{settings.media_url}/{FOLDER}/{filename}"
    try:
        with urllib.request.urlopen(url, timeout=PUBLIC_READ_TIMEOUT) as response:  # noqa: S310 -- settings only allow HTTP(S) URLs
            content = response.read()
    except (URLError, OSError) as error:
        raise CheckFailed(
            f"{url}: {error}. The bucket policy must allow public s3:GetObject on "
            f"{FOLDER}/*."
        ) from error
    if content != CONTENT:
        raise CheckFailed(f"{url} doesn't return the content that was stored.")
    return f"{url} is publicly readable"


def check_delete(filename: str) -> str:
    try:
        delete_profile_image(filename)
    except StorageError as error:
        raise CheckFailed(f"{error}. The policy must allow s3:DeleteObject.") from error
    return f"{FOLDER}/{filename} deleted"


def run_steps() -> Iterator[Step]:
    """Run all steps that can work, and yield their results."""
    filename = f"check-{uuid.uuid4().hex}.txt"
    # The first two are required by those that follow.
    yield (credentials := run("credentials", check_credentials))
    if not credentials.is_ok:
        return
    yield (put := run("put", partial(check_put, filename)))
    if not put.is_ok:
        return
    # Delete the test object even if it isn't publicly readable.
    yield run("public read", partial(check_public_read, filename))
    yield run("delete", partial(check_delete, filename))


def run(name: str, step: Callable[[], str]) -> Step:
    try:
        return Step(name, True, step())
    except CheckFailed as error:
        return Step(name, False, str(error))


def main() -> int:
    if settings.s3_bucket_name is None:
        print("S3_BUCKET_NAME is not set. Pictures are stored in", settings.media_dir)
        return 1
    failed = 0
    for name, is_ok, message in run_steps():
        failed += not is_ok
        print(f"{'ok' if is_ok else 'FAILED':<7} {name}: {message}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
