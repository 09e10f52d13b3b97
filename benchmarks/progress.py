"""Print progress on standard output."""

import sys


def say(text: str) -> None:
    """Print a line without buffering, even if the output is a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
