"""Truncate, normalize and compare Unicode text."""

import unicodedata

import regex

GRAPHEME_CLUSTER = regex.compile(r"\X")
# Whitespace that forms its own grapheme cluster. Searches from right to left (?r).
LAST_WHITESPACE = regex.compile(
    r"(?r)(?<!\p{GCB=Prepend})\s(?!\p{GCB=Extend}|\p{GCB=ZWJ}|\p{GCB=SpacingMark})"
)
# NFC turns at most this many characters into one (Unicode Annex 15, table 6).
MAX_COMPOSITION = 4
# Characters that are neither blank nor invisible. U+2800 is a blank braille pattern,
# U+13441 and U+13442 are blank hieroglyphs, U+16FE4 is a filler, and U+1D159 is a note
# without a head. Prepended concatenation marks are format characters, but visible.
# Private-use characters and those of newer Unicode versions at least show up as boxes.
VISIBLE = regex.compile(
    r"\p{Prepended_Concatenation_Mark}"
    r"|[^\p{Z}\p{Cc}\p{Cf}\p{Cs}\p{Noncharacter_Code_Point}"
    r"\p{Default_Ignorable_Code_Point}"
    r"\u2800\U00013441\U00013442\U00016fe4\U0001d159]"
)
IGNORABLE = regex.compile(r"\p{Default_Ignorable_Code_Point}")
# Embeddings, overrides and isolates (Unicode Annex 9, section 2). The implicit marks
# are harmless.
BIDI_CONTROLS = regex.compile("[\u202a-\u202e\u2066-\u2069]")


def truncate(text: str, length: int) -> str:
    """Shorten text to at most `length` code points, including an ellipsis.

    The text is cut at whitespace in the last fifth of that length if there is any, or
    else between two grapheme clusters (Unicode Annex 29).
    """
    if len(text) <= length:
        return text
    limit = length - 1
    # Cutting earlier would shorten text with few spaces, such as Chinese, too much.
    last_fifth = limit - limit // 5
    # The whitespace can also be right after the limit.
    found = LAST_WHITESPACE.search(text, last_fifth, limit + 1)
    if found:
        return text[: found.start()].rstrip() + "…"
    end = 0
    for cluster in GRAPHEME_CLUSTER.finditer(text, 0, limit + length):
        if cluster.end() > limit:
            break
        end = cluster.end()
    return text[:end] + "…"


def to_nfc(text: str, *, max_length: int) -> str:
    """Return text in NFC, or unchanged if its NFC form exceeds `max_length` anyway.

    Normalizing a megabyte of combining marks would take minutes.
    """
    if len(text) > MAX_COMPOSITION * max_length:
        return text
    return unicodedata.normalize("NFC", text)


def is_visible(text: str) -> bool:
    """Return whether text contains at least one visible character."""
    return VISIBLE.search(text) is not None


def strip_invisible_start(text: str) -> str:
    """Return text without leading blank or invisible characters."""
    found = VISIBLE.search(text)
    return text[found.start() :] if found else ""


def caseless_key(text: str) -> str:
    """Return a key for comparing strings.

    Strings have the same key if they only differ in case, compatibility forms,
    invisible characters or spacing. The key is toNFKC_Casefold (Unicode Standard,
    section 3.13, R5) with runs of whitespace collapsed to one space.
    """
    folded = text
    # Case folding can produce characters that normalization changes again.
    for _ in range(2):
        folded = unicodedata.normalize("NFKC", folded).casefold()
        folded = IGNORABLE.sub("", folded)
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def normalize_newlines(text: str) -> str:
    """Replace CRLF and CR with LF. Browsers display all three in the same way."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def without_bidi_controls(text: str) -> str:
    """Remove characters that could change the direction of the surrounding text."""
    return str(BIDI_CONTROLS.sub("", text))
