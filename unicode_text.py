"""Truncate, normalize and compare Unicode text."""

import unicodedata

import regex

GRAPHEME_CLUSTER = regex.compile(r"\X")
# Whitespace that is a grapheme cluster of its own.
WHITESPACE = regex.compile(
    r"(?<!\p{GCB=Prepend})\s(?!\p{GCB=Extend}|\p{GCB=ZWJ}|\p{GCB=SpacingMark})"
)
# NFC turns at most this many characters into one (Unicode Annex 15, table 6).
MAX_COMPOSITION = 4
# Characters that are neither blank nor invisible. U+2800 is a blank braille pattern,
# U+13441 and U+13442 are blank hieroglyphs, U+16FE4 is a filler, and U+1D159 is a note
# without a head. Signs that precede numbers are format characters, but visible. So are
# private-use characters, and those of a newer Unicode version: at least as a box.
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
    """Shorten a text to at most `length` code points, with an ellipsis.

    It ends at whitespace in the last fifth, or else between two grapheme clusters
    (Unicode Annex 29).
    """
    if len(text) <= length:
        return text
    limit = length - 1
    # Breaking earlier could cut a text with few spaces, such as Chinese, to one word.
    last_fifth = limit - limit // 5
    # The character after the limit can be the whitespace to end at.
    breaks = list(WHITESPACE.finditer(text, last_fifth, limit + 1))
    if breaks:
        return text[: breaks[-1].start()].rstrip() + "…"
    end = 0
    for cluster in GRAPHEME_CLUSTER.finditer(text, 0, limit + length):
        if cluster.end() > limit:
            break
        end = cluster.end()
    return text[:end] + "…"


def to_nfc(text: str, *, max_length: int) -> str:
    """Return the text in NFC, or unchanged if it can't fit into `max_length` there.

    Normalizing a megabyte of combining marks would take minutes.
    """
    if len(text) > MAX_COMPOSITION * max_length:
        return text
    return unicodedata.normalize("NFC", text)


def is_visible(text: str) -> bool:
    """Return whether a text has a character that people can see."""
    return VISIBLE.search(text) is not None


def strip_invisible_start(text: str) -> str:
    """Return a text without leading blank or invisible characters."""
    found = VISIBLE.search(text)
    return text[found.start() :] if found else ""


def caseless_key(text: str) -> str:
    """Return a key for comparing strings.

    It is equal for strings that differ only in case, compatibility forms, invisible
    characters or spacing: toNFKC_Casefold (the Unicode Standard, definition R5 in
    section 3.13) with runs of whitespace collapsed to one space.
    """
    folded = text
    # Folding can produce characters that normalization changes again.
    for _ in range(2):
        folded = unicodedata.normalize("NFKC", folded).casefold()
        folded = IGNORABLE.sub("", folded)
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def normalize_newlines(text: str) -> str:
    """Return a text with LF for CRLF and CR, which browsers show in the same way."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def without_bidi_controls(text: str) -> str:
    """Return a text that can't change the direction of the text around it."""
    return str(BIDI_CONTROLS.sub("", text))
