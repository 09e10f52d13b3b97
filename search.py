"""Search queries, and the matches to highlight on the results page."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property
from operator import add

import regex
from markupsafe import Markup, escape

from models import excerpt
from queries import PostRow

MAX_QUERY_LENGTH = 200
# After compatibility decomposition. PostgreSQL rejects words of more than 2,046 bytes.
MAX_DECOMPOSED_LENGTH = 500
# A shorter beginning of a word is too common for an index.
MIN_PREFIX = 3
# Maximum length of the text before the first match in an excerpt.
MAX_LEAD_LENGTH = 100
# Searching all of a long post for its first match would block the event loop.
MAX_SCANNED_LENGTH = 20_000

QUOTATION_MARK = regex.compile('["“”„«»]')
# Marks and format characters, such as soft hyphens and joiners, are part of a word.
WORD = regex.compile(r"[\p{M}\p{Cf}]*[\p{L}\p{N}][\p{L}\p{N}\p{M}\p{Cf}]*")
# Letters with a stroke, which have no decomposition (see alembic/sql/0011_search.sql).
STROKES = str.maketrans("ςłøđħı", "\u03c3lodhi")


@dataclass(frozen=True)
class Search:
    """What a user searches for."""

    text: str

    @cached_property
    def terms(self) -> list[list[str]]:
        """The required terms. Each consists of words that must be adjacent."""
        parts = QUOTATION_MARK.split(self.decomposed)
        chunks = [
            chunk
            # Every other part is quoted.
            for number, part in enumerate(parts)
            for chunk in ([part] if number % 2 else part.split())
        ]
        return [words for chunk in chunks if (words := WORD.findall(chunk))]

    @cached_property
    def decomposed(self) -> str:
        # PostgreSQL must not find punctuation by decomposing letters later.
        return unicodedata.normalize("NFKD", self.text)[:MAX_DECOMPOSED_LENGTH]

    @property
    def ends_in_prefix(self) -> bool:
        """Whether the last word may be a prefix, because it isn't quoted."""
        return WORD.search(QUOTATION_MARK.split(self.decomposed)[-1]) is not None

    @property
    def tsquery(self) -> str:
        """The query for `to_tsquery`.

        The words only contain letters, digits, marks and format characters, so nothing
        in a query can end a quoted word or act as an operator.
        """
        return to_tsquery(self.terms) + (":*" if self.ends_in_prefix else "")

    @property
    def tsquery_for_index(self) -> str:
        """The query without a short prefix, for which an index is slow."""
        has_short_prefix = self.ends_in_prefix and len(self.terms[-1][-1]) < MIN_PREFIX
        if has_short_prefix and len(self.terms) > 1:
            return to_tsquery(self.terms[:-1])
        return self.tsquery

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """A pattern that finds the terms in folded text."""
        terms = [
            r"[\W_]+".join(
                re.escape(fold(unicodedata.normalize("NFC", word))) for word in words
            )
            for words in self.terms
        ]
        endings = [r"(?![^\W_])"] * len(terms)
        if self.ends_in_prefix:
            endings[-1] = ""
        return re.compile(rf"(?<![^\W_])(?:{'|'.join(map(add, terms, endings))})")

    def highlight(self, text: str) -> Markup:
        """Escape a short string and mark the search terms in it."""
        text = unicodedata.normalize("NFC", text)
        html, end = Markup(""), 0
        for found in self.pattern.finditer(fold(text)):
            html += escape(text[end : found.start()])
            end = found.end()
            html += Markup("<mark>{}</mark>").format(text[found.start() : end])
        return html + escape(text[end:])

    def excerpt(self, post: PostRow) -> str:
        """Return an excerpt that contains the first match in the content."""
        content = post.text_without_markup
        found = self.pattern.search(fold(content[:MAX_SCANNED_LENGTH]))
        if found is None or found.start() <= MAX_LEAD_LENGTH:
            return post.excerpt
        earliest = found.start() - MAX_LEAD_LENGTH
        space = content.find(" ", earliest, found.start())
        start = found.start() if space < 0 else space + 1
        return excerpt("…" + content[start:])


def to_tsquery(terms: list[list[str]]) -> str:
    return " & ".join(" <-> ".join(f"'{word}'" for word in term) for term in terms)


def fold(text: str) -> str:
    """Return text of the same length in lower case, without accents."""
    # This is the only letter whose lower case is longer.
    return text.replace("İ", "I").lower().translate(letters_without_accents())


@cache
def letters_without_accents() -> dict[int, int]:
    """Return Latin, Greek and Cyrillic letters that have accents, without them."""
    found = dict(STROKES)
    for code in range(0x80, 0x2000):
        decomposed = unicodedata.normalize("NFKD", chr(code))
        letter, accents = decomposed[0], decomposed[1:]
        if accents and all(map(unicodedata.combining, accents)):
            found[code] = ord(letter)
    return found
