"""Markup that tries to run a script, or to take long to render."""

from html.parser import HTMLParser
from itertools import chain

RUN = "__pwned=1"
SCHEMES = [
    f"javascript:{RUN}",
    f"JaVaScRiPt:{RUN}",
    f" javascript:{RUN}",
    f"\x01javascript:{RUN}",
    f"java\tscript:{RUN}",
    f"java\nscript:{RUN}",
    f"javascript&colon;{RUN}",
    f"&#106;avascript:{RUN}",
    f"&#x6A;&#x61;vascript&#58;{RUN}",
    f"&#0000106avascript:{RUN}",
    f"javascript\\:{RUN}",
    f"javascript%3A{RUN}",
    f"\u2028javascript:{RUN}",
    f"\u00a0javascript:{RUN}",
    f"vbscript:{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    "data:text/html;base64,PHNjcmlwdD5fX3B3bmVkPTE8L3NjcmlwdD4=",
    f"data:image/svg+xml,<svg onload={RUN}>",
    f"view-source:javascript:{RUN}",
    "file:///etc/passwd",
    "blob:https://example.com/1",
    "//evil.example",
    "/\\evil.example",
    f"http:javascript:{RUN}",
    f'https://example.com/" onmouseover="{RUN}',
    f"https://example.com/' onmouseover='{RUN}",
    f"https://example.com/`onmouseover={RUN}`",
    f"https://example.com/><img src=x onerror={RUN}>",
    f"https://example.com/\\x3cscript>{RUN}</script>",
    f"https://[::1]/?{RUN}",
    f"https://a@javascript:{RUN}@b",
    "https://example.com/\u202e\u2066exe.gpj",
]
LINKS = [
    "{}",
    "<{}>",
    "[a]({})",
    "[a](<{}>)",
    '[a]({} "b")',
    "![a]({})",
    "[![a]({0})]({0})",
    "[a][b]\n\n[b]: {}",
    "[a][b]\n\n[b]: <{}>",
    '<a href="{}">a</a>',
    "<a href={}>a</a>",
    '<iframe src="{}"></iframe>',
    '<svg><a xlink:href="{}"><text>a</text></a></svg>',
    '<meta http-equiv="refresh" content="0; url={}">',
    '<form action="{}"><button>a</button></form>',
    '<object data="{}"></object>',
    '<base href="{}">',
]
HTML = [
    f"<script>{RUN}</script>",
    f"<ScRiPt >{RUN}</sCrIpT>",
    f"<script\n>{RUN}</script\n>",
    f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    f"<script>{RUN}",
    f"</p><script>{RUN}</script><p>",
    f"<<script>{RUN}//<</script>",
    f"<script src=data:,{RUN}></script>",
    f"<script type=module>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<img src=x onerror={RUN}",
    f"<img/src=x/onerror={RUN}>",
    f'<img """><img src=x onerror="{RUN}">',
    f"<img src='x' alt='a' o\x01nerror={RUN}>",
    f"<image src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg/onload={RUN}//",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><style><img src=x onerror={RUN}></style></svg>",
    f"<svg></p><style><a id='</style><img src=x onerror={RUN}>'>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<svg><set attributeName=href to=javascript:{RUN}>",
    f"<svg><foreignObject><iframe onload={RUN}></foreignObject></svg>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>",
    f"<math><annotation-xml encoding='text/html'><img src=x onerror={RUN}>",
    f"<form><math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<textarea><img title='</textarea><img src=x onerror={RUN}>'>",
    f"<title><img title='</title><img src=x onerror={RUN}>'>",
    f"<template><img src=x onerror={RUN}></template>",
    f"<xmp><p title='</xmp><img src=x onerror={RUN}>'>",
    f"<!--><img src=x onerror={RUN}>-->",
    f"<!--{'-' * 9}!><img src=x onerror={RUN}>",
    f"<![CDATA[><img src=x onerror={RUN}>]]>",
    f"<?xml ?><img src=x onerror={RUN}>",
    f"<!DOCTYPE html><body onload={RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<details open ontoggle={RUN}>",
    f"<video><source onerror={RUN}></video>",
    f"<input autofocus onfocus={RUN}>",
    f"<p style='animation:x' onanimationstart={RUN}>",
    f"<x contenteditable onbeforeinput={RUN}>",
    "<style>* { background: url(//evil.example) }</style>",
    "<link rel=stylesheet href=//evil.example>",
    "<a id=location href=#x>a</a><form name=body><input name=attributes></form>",
    "<div class=modal data-login-redirect id=main tabindex=1 dir=rtl>",
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    f"&amp;lt;script&amp;gt;{RUN}",
    f"&#60;script&#62;{RUN}&#60;/script&#62;",
    f"\\<script>{RUN}\\</script>",
    f"`<script>{RUN}</script>`",
    f"```<img src=x onerror={RUN}>\n<script>{RUN}</script>\n```",
    f'```" onclick="{RUN}\ncode\n```',
    f"    <script>{RUN}</script>",
    f"| <script>{RUN}</script> |\n|:-:|\n| <img src=x onerror={RUN}> |",
    f"> - <script>{RUN}</script>",
    f"# <img src=x onerror={RUN}>",
    f"**<img src=x** onerror={RUN}>",
    f"<img src=x *onerror={RUN}>*",
    f"[<img src=x onerror={RUN}>](https://example.com)",
    f'[a](https://example.com "\\"><img src=x onerror={RUN}>")',
    f"[a](https://example.com '&quot; onclick=&quot;{RUN}')",
    f'![" onerror="{RUN}](https://example.com)',
    f"![<script>{RUN}</script>](https://example.com)",
    f"[a]: https://example.com '<script>{RUN}</script>'\n\n[a]",
    f"<https://example.com/<script>{RUN}</script>>",
    f"https://example.com/<script>{RUN}</script>",
    f"a\x01<\x0bscript>\x0c{RUN}",
    f"\uff1cscript\uff1e{RUN}",
    f"\ufeff<script>{RUN}</script>",
]
MARKUP = [
    *chain.from_iterable((link.format(url) for url in SCHEMES) for link in LINKS),
    *HTML,
]

ATTRIBUTES = {
    **{tag: {"dir"} for tag in ("p", "h2", "h3", "h4", "h5", "h6", "ul")},
    **{tag: {"align"} for tag in ("td", "th")},
    "ol": {"start", "dir"},
    "a": {"href", "title", "rel"},
    "table": {"dir", "tabindex"},
}
TAGS = {
    *ATTRIBUTES,
    *("li", "blockquote", "pre", "code", "thead", "tbody", "tr"),
    *("em", "strong", "s", "br", "hr"),
}


class ViolationFinder(HTMLParser):
    """Collects everything in HTML that isn't allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.violations: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        rules = [
            tag in TAGS,
            set(values) <= ATTRIBUTES.get(tag, set()),
            (values.get("href") or "https:").lower().startswith(("http:", "https:")),
            tag != "a" or values["rel"] == "nofollow ugc noopener",
            values.get("dir", "auto") == "auto",
            values.get("align", "left") in {"left", "center", "right"},
        ]
        if not all(rules):
            self.violations.append(self.get_starttag_text() or "")

    def handle_comment(self, data: str) -> None:
        self.violations.append(data)

    def handle_decl(self, decl: str) -> None:
        self.violations.append(decl)

    handle_pi = unknown_decl = handle_comment


def find_violations(content_html: str) -> list[str]:
    finder = ViolationFinder()
    finder.feed(content_html)
    finder.close()
    return finder.violations


def repeat(text: str, length: int = 100_000) -> str:
    return (text * length)[:length]


# These take long to parse, or took long in other versions of Markdown parsers.
SLOW = [
    *map(
        repeat, ["[", "[a](", "*a", "*_", "a**b_", "<", "<http://", "`a``", "&", "\\"]
    ),
    *map(
        repeat, ["* a\n", "> ", "- ", "a\n", "a\n\n", "[a]: http://b\n", "~~~\n", "\n"]
    ),
    *map(repeat, ["|a|b|\n|-|-|\n|a\n", "http://a (", "http://a(b", " \n"]),
    "[" * 50_000 + "]" * 50_000,
    "> " * 19 + "a\n" + "a\n" * 49_900,
    "|a" * 16_000 + "|\n" + "|-" * 16_000 + "|\n" + "|a\n" * 1_000,
    "".join("`" * number + " " for number in range(440)),
    "http://a" + repeat("(x)", 99_000),
    "http://a(" + repeat("x", 99_000),
]
