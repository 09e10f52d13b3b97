"""Convert uploaded pictures to avatars, and store and delete avatars."""

import os
import signal
import subprocess
import sys
import uuid

import storage
from config import BASE_DIR, Settings

DECODER = (sys.executable, "-W", "ignore", str(BASE_DIR / "image_decoder.py"))
# In seconds, including time spent waiting for a busy CPU. The decoder itself limits its
# CPU time.
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


class InvalidImage(Exception):
    """The file is not a picture, is damaged, or exceeds the limits of the decoder."""


def process_profile_image(content: bytes) -> tuple[bytes, str]:
    """Convert an uploaded JPEG, PNG, GIF or WebP to an avatar.

    Blocks until a separate process (`image_decoder.py`) has decoded the picture.

    Returns:
        A 300 x 300 pixel JPEG (RGB, upright, no metadata) and its filename, `<uuid4
        hex>.jpg`.

    Raises:
        InvalidImage: The picture can't be decoded, has too many pixels, or takes more
            CPU time or memory than the decoder may use.
        TimeoutError: The machine is too busy to decode the picture.
        OSError: The decoder couldn't be started, or it ended unexpectedly.
    """
    try:
        decoder = subprocess.run(
            DECODER,
            input=content,
            capture_output=True,
            check=False,
            timeout=DECODE_TIMEOUT,
            # After Ctrl+C, the server finishes uploads in progress, so the signal must
            # not reach the decoder.
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
    """Store an avatar, or raise `StorageError` if it might not have been stored."""
    storage.put(f"{FOLDER}/{filename}", content, content_type="image/jpeg")


def delete_profile_image(filename: str) -> None:
    """Delete an avatar if it exists. Raise `StorageError` if that might have failed."""
    storage.delete(f"{FOLDER}/{filename}")
