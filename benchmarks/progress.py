"""Progress on standard output."""

import sys


def say(text: str) -> None:
    """Print text at once, even into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
