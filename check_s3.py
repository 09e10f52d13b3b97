"""Tells step by step whether the profile pictures' bucket can be used.

Run it as `python check_s3.py`; it exits with 0 when everything works, else with 1.
"""

import sys
import urllib.request
import uuid
from collections.abc import Callable
from urllib.error import URLError

from botocore.exceptions import BotoCoreError, ClientError

from config import settings
from image_utils import (
    FOLDER,
    StorageError,
    delete_profile_image,
    s3_client,
    upload_profile_image,
)

CONTENT = b"written by check_s3.py, may be deleted"
PUBLIC_READ_SECONDS = 10


class CheckFailed(Exception):
    """A step did not work; the text says what to look at."""


def check_credentials() -> str:
    """Look whether there are credentials, and whether the bucket knows them."""
    try:
        s3_client().head_bucket(Bucket=settings.s3_bucket_name)
    except (BotoCoreError, ClientError) as error:
        raise CheckFailed(
            f"{error}. Look at S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY (or the role of "
            "the task), S3_REGION and S3_BUCKET_NAME."
        ) from error
    return f"bucket {settings.s3_bucket_name} answers"


def check_put(filename: str) -> str:
    """Store an object as an upload does."""
    try:
        upload_profile_image(CONTENT, filename)
    except StorageError as error:
        raise CheckFailed(f"{error}. The policy must allow s3:PutObject.") from error
    return f"{FOLDER}/{filename} stored"


def check_public_read(filename: str) -> str:
    """Fetch the object as a browser does, without credentials."""
    url = f"{settings.media_url}/{FOLDER}/{filename}"
    try:
        with urllib.request.urlopen(url, timeout=PUBLIC_READ_SECONDS) as response:  # noqa: S310 - the address comes from the settings, which allow http(s) alone
            content = response.read()
    except (URLError, OSError) as error:
        raise CheckFailed(
            f"{url}: {error}. The bucket policy must allow s3:GetObject to everybody "
            f"on {FOLDER}/*."
        ) from error
    if content != CONTENT:
        raise CheckFailed(f"{url} gives something else than was stored.")
    return f"{url} can be read by everybody"


def check_delete(filename: str) -> str:
    """Delete the object again."""
    try:
        delete_profile_image(filename)
    except StorageError as error:
        raise CheckFailed(f"{error}. The policy must allow s3:DeleteObject.") from error
    return f"{FOLDER}/{filename} deleted"


def run(name: str, step: Callable[[], str]) -> bool:
    """Run one step, print how it went, and tell whether it worked."""
    try:
        print(f"ok      {name}: {step()}")
    except CheckFailed as error:
        print(f"FAILED  {name}: {error}")
        return False
    return True


def main() -> int:
    """Run all steps; the exit status."""
    if settings.s3_bucket_name is None:
        print("S3_BUCKET_NAME is not set: pictures are kept in", settings.media_dir)
        return 1
    filename = f"check-{uuid.uuid4().hex}.txt"
    if not run("credentials", check_credentials):
        return 1
    if not run("put", lambda: check_put(filename)):
        return 1
    # Whatever can be read or not, what was put goes again.
    readable = run("public read", lambda: check_public_read(filename))
    deleted = run("delete", lambda: check_delete(filename))
    return 0 if readable and deleted else 1


if __name__ == "__main__":
    sys.exit(main())
