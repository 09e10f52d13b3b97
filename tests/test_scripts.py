"""Scripts and templates create no HTML or code from strings."""

import re

import pytest

from config import BASE_DIR

FILES = [
    *(BASE_DIR / "static" / "js").rglob("*.js"),
    *(BASE_DIR / "templates").rglob("*.*"),
]
# Set textContent, clone a <template>, or listen for events in a module instead.
BANNED = re.compile(
    r"""\b(?:inner|outer)HTML\b
    | \binsertAdjacentHTML\b
    | \bcreateContextualFragment\b
    | \b(?:DOMParser|parseFromString|parseHTMLUnsafe|setHTML(?:Unsafe)?)\b
    | \bsrcdoc\b
    | \bdocument\s*\.\s*write(?:ln)?\b
    | \beval\b
    | \bFunction\s*\(
    | \bset(?:Timeout|Interval)\s*\(\s*["'`]
    | \b(?i:javascript:)
    # An event handler: as an attribute, or in a script by its name.
    | (?:^|[\s"'/])(?i:on[a-z]+)\s*=\s*["'{]
    | (?i:setAttribute)\(\s*["'`](?i:on)
    """,
    re.VERBOSE | re.MULTILINE,
)
COMMENTS = re.compile(r"^\s*(?://|/\*|\*).*$|\{#(?s:.*?)#\}", re.MULTILINE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_html_or_code_from_strings(file):
    code = COMMENTS.sub("", file.read_text(encoding="utf-8"))

    assert BANNED.findall(code) == []
