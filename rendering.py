"""Render the content of posts as HTML, and as text without markup."""

import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import nh3
from cachetools import LRUCache
from markdown_it import MarkdownIt
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup, escape

from executors import BoundedExecutor
from unicode_text import is_visible, normalize_newlines

PostFormat = Literal["plain", "markdown"]

# Longer text, or Markdown of any length, is rendered in a thread.
MAX_INLINE_LENGTH = 10_000
# CPU time for parsing Markdown. Prose of maximum length takes about half of the first.
MAX_PARSING_TIME = 1.0
MAX_SUMMARY_PARSING_TIME = 0.05
# Number of characters of a post to read for its excerpt.
SUMMARY_LENGTH = 1000
CACHE_LENGTH = 8_000_000

REL = "nofollow ugc noopener"
BLANK_LINES = re.compile(r"\n\s*\n")
# Parentheses in a URL must be paired, and it can't end with any other punctuation.
# Looking behind only after `http` makes the search more than twice as fast.
URL = re.compile(
    r"""(
        http(?<![^\W_]http)s?://\w
        (?:
            (?: [^\s<>"`\[\]\\()] | \([^\s<>"`\[\]\\()]*\) )*
            (?: [^\s<>"`\[\]\\()'.,;:!?{}*_~] | \([^\s<>"`\[\]\\()]*\) )
        )?
    )""",
    re.IGNORECASE | re.VERBOSE,
)
WEB_URL = re.compile("https?://", re.IGNORECASE)

rendering = BoundedExecutor("rendering", max_workers=1, max_queue=63)

# Publishing a post invalidates the feeds, and updating one renders the old and the new
# text, so keep what took a long time to render.
_rendered: LRUCache[tuple[str, PostFormat], Markup] = LRUCache(
    CACHE_LENGTH, getsizeof=lambda html: len(html) + 1000
)


async def render(content: str, post_format: PostFormat) -> Markup:
    """Return the HTML of a post.

    Raises:
        QueueFull: Too many texts are waiting to be rendered.
    """
    if post_format == "plain" and len(content) <= MAX_INLINE_LENGTH:
        return render_plain(content)
    key = (content, post_format)
    html = _rendered.get(key)
    if html is None:
        function = render_plain if post_format == "plain" else render_markdown
        html = _rendered[key] = await rendering.run(function, content)
    return html


# Plain text


def render_plain(content: str) -> Markup:
    """Return paragraphs, with line breaks and links."""
    parts = URL.split(normalize_newlines(content).strip("\n"))
    html = "".join(
        f'<a href="{escape(part)}" rel="{REL}">{escape(part)}</a>'
        if position % 2
        else escape(part)
        for position, part in enumerate(parts)
    )
    paragraphs = (part.replace("\n", "<br>") for part in BLANK_LINES.split(html))
    return Markup("".join(f'<p dir="auto">{part}</p>' for part in paragraphs))  # noqa: S704 -- escaped above


# Markdown


class ParsingTimeout(Exception):
    """Parsing took too much CPU time."""


class Markdown(MarkdownIt):
    """CommonMark with tables, without HTML and indented code.

    A single line break stays, URLs become links, and so do images.
    """

    def __init__(self) -> None:
        super().__init__("commonmark", {"html": False})
        self.enable(["table", "strikethrough"]).disable("code")
        # As alternatives to these rules, block rules are called for each line.
        alternatives: RuleOptionsType = {
            "alt": ["paragraph", "reference", "blockquote", "list"]
        }
        self.block.ruler.before("table", "timeout", check_time, alternatives)
        self.inline.ruler.before("text", "timeout", check_time)
        self.inline.ruler.before("text", "bare_url", link_bare_url)
        for rule in ("softbreak", "hardbreak"):
            self.add_render_rule(rule, lambda *_: "<br>")
        self.add_render_rule("image", image_link)

    def validateLink(self, url: str) -> bool:  # noqa: N802 -- the library's name
        return WEB_URL.match(url) is not None


def image_link(_: object, tokens: Sequence[Token], index: int, *__: object) -> str:
    url = str(tokens[index].attrs["src"])
    return f'<a href="{escape(url)}">{escape(tokens[index].content or url)}</a>'


def check_time(state: StateBlock | StateInline, *_: object) -> bool:
    """Raise `ParsingTimeout` after the deadline. This rule never matches anything."""
    if time.thread_time() > state.env["deadline"]:
        raise ParsingTimeout
    return False


def link_bare_url(state: StateInline, silent: bool) -> bool:
    """Create a link if there is a colon, and a URL that begins before it."""
    if state.src[state.pos] != ":" or state.linkLevel:
        return False
    for scheme in ("https", "http"):
        start = state.pos - len(scheme)
        url = URL.match(state.src, start, state.posMax) if start >= 0 else None
        if url:
            break
    else:
        return False
    if not silent:
        state.pending = state.pending[: -len(scheme)]
        state.push("link_open", "a", 1).attrs = {"href": state.md.normalizeLink(url[0])}
        state.push("text", "", 0).content = url[0]
        state.push("link_close", "a", -1)
    state.pos = url.end()
    return True


markdown = Markdown()
# Blocks whose text can run from left to right or from right to left.
WITH_DIRECTION = {"p", "h2", "h3", "h4", "h5", "h6", "ul", "ol"}
sanitizer = nh3.Cleaner(
    tags=WITH_DIRECTION
    | {"a", "blockquote", "br", "code", "em", "hr", "li", "pre", "s", "strong"}
    | {"table", "tbody", "td", "th", "thead", "tr"},
    attributes={
        "a": {"href", "title"},
        "ol": {"start"},
        "td": {"align"},
        "th": {"align"},
    },
    set_tag_attribute_values={tag: {"dir": "auto"} for tag in WITH_DIRECTION}
    # A wide table scrolls, and keyboard users can only scroll an element with focus.
    | {"table": {"dir": "auto", "tabindex": "0"}},
    url_schemes={"http", "https"},
    url_relative="deny",
    link_rel=REL,
)


def render_markdown(content: str) -> Markup:
    """Return sanitized HTML, or render the text as plain if it takes too long."""
    try:
        tokens = parse(content, MAX_PARSING_TIME)
    except ParsingTimeout:
        return render_plain(content)
    levels = [int(token.tag[1]) for token in tokens if token.type == "heading_open"]
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            # Level 1 is reserved for the page title.
            token.tag = f"h{min(int(token.tag[1]) - min(levels) + 2, 6)}"
        elif "style" in token.attrs:
            # The content security policy forbids inline styles.
            token.attrs = {"align": str(token.attrs["style"]).split(":")[1]}
    html = markdown.renderer.render(tokens, markdown.options, {})
    # Definitions of links, for example, leave nothing to show.
    return Markup(sanitizer.clean(html)) or render_plain(content)  # noqa: S704 -- sanitized


def parse(content: str, max_time: float) -> Sequence[Token]:
    """Parse Markdown.

    Raises:
        ParsingTimeout: This took more than `max_time` seconds of CPU time.
    """
    return markdown.parse(content, {"deadline": time.thread_time() + max_time})


# Parse once before several threads do, because the first call initializes the rules.
parse("", MAX_PARSING_TIME)


# Excerpts and titles


def text_without_markup(content: str, post_format: PostFormat) -> str:
    """Return plain text as is, or the text in the first part of Markdown content."""
    if post_format != "markdown":
        return content
    return _without_markup(content[:SUMMARY_LENGTH])


@lru_cache(maxsize=1000)
def _without_markup(content: str) -> str:
    try:
        tokens = parse(content, MAX_SUMMARY_PARSING_TIME)
    except ParsingTimeout:
        return content
    text = "\n".join(
        text_of(token) for token in tokens if token.type in {"inline", "fence"}
    )
    return text if is_visible(text) else content


def text_of(token: Token) -> str:
    """Return the text of a block without markup."""
    if token.children is None:
        return token.content
    return "".join(
        "\n" if child.type in {"softbreak", "hardbreak"} else child.content
        for child in token.children
    )
