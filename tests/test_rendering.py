"""Posts as HTML, and as text without markup."""

import asyncio
import threading

import pytest

import rendering
from executors import QueueFull
from rendering import (
    MAX_INLINE_LENGTH,
    render,
    render_markdown,
    render_plain,
    text_without_markup,
)
from tests.conftest import create_post
from tests.hostile_markup import MARKUP, find_violations

REL = 'rel="nofollow ugc noopener"'


@pytest.fixture(autouse=True)
def _empty_cache():
    rendering._rendered.clear()


def link(url: str, text: str = "") -> str:
    return f'<a href="{url}" {REL}>{text or url}</a>'


class TestPlain:
    @pytest.mark.parametrize(
        ("content", "paragraphs"),
        [
            ("a\r\nb\r\n\r\nc", ["a<br>b", "c"]),
            ("a\rb\r\rc", ["a<br>b", "c"]),
            ("\na\n \t\n\n\nb\n", ["a", "b"]),
            ("a\n\n  b  c", ["a", "  b  c"]),
            ("<b> & \"c\" 'd'", ["&lt;b&gt; &amp; &#34;c&#34; &#39;d&#39;"]),
            ("**a** [b](c)", ["**a** [b](c)"]),
        ],
    )
    def test_paragraphs(self, content, paragraphs):
        expected = "".join(f'<p dir="auto">{text}</p>' for text in paragraphs)

        assert render_plain(content) == expected

    @pytest.mark.parametrize(
        ("content", "url"),
        [
            ("See http://a.example.", "http://a.example"),
            ("(HTTPS://A.example/b)!", "HTTPS://A.example/b"),
            ("https://a.example/b_(c)).", "https://a.example/b_(c)"),
            ("'https://a.example/?b=c&d=%20#e'", "https://a.example/?b=c&amp;d=%20#e"),
            ("<https://a.example/b>", "https://a.example/b"),
            ('"https://a.example"', "https://a.example"),
            ("https://é.example/ü…", "https://é.example/ü…"),
        ],
    )
    def test_url(self, content, url):
        assert link(url) in render_plain(content)

    @pytest.mark.parametrize(
        "content",
        ["xhttp://a", "http://", "http://.", "ftp://a", "www.a.example", "http:/a"],
    )
    def test_no_url(self, content):
        assert render_plain(content) == f'<p dir="auto">{content}</p>'


class TestMarkdown:
    @pytest.mark.parametrize(
        ("content", "html"),
        [
            ("a\nb\n\nc", '<p dir="auto">a<br>b</p>\n<p dir="auto">c</p>\n'),
            ("*a* **b** ~~c~~ `d`", "<em>a</em> <strong>b</strong> <s>c</s>"),
            ("- a", '<ul dir="auto">\n<li>a</li>\n</ul>\n'),
            ("3. a", '<ol start="3" dir="auto">\n<li>a</li>\n</ol>\n'),
            ("> a", '<blockquote>\n<p dir="auto">a</p>\n</blockquote>\n'),
            ("```py\na < b\n```", "<pre><code>a &lt; b\n</code></pre>\n"),
            ("    a", '<p dir="auto">a</p>\n'),
            ("[a]: https://b", '<p dir="auto">[a]: <a href="https://b"'),
            ("<b>a</b>", '<p dir="auto">&lt;b&gt;a&lt;/b&gt;</p>\n'),
            ("|a|b|\n|-|-:|\n|1|2|", '<td>1</td>\n<td align="right">2</td>'),
        ],
    )
    def test_elements(self, content, html):
        assert html in render_markdown(content)

    @pytest.mark.parametrize(
        ("content", "html"),
        [
            ("# a\n## b", '<h2 dir="auto">a</h2>\n<h3 dir="auto">b</h3>\n'),
            ("### a\n## b", '<h3 dir="auto">a</h3>\n<h2 dir="auto">b</h2>\n'),
            ("# a\n###### b", '<h2 dir="auto">a</h2>\n<h6 dir="auto">b</h6>\n'),
            ("a\n-", '<h2 dir="auto">a</h2>\n'),
        ],
    )
    def test_heading_levels(self, content, html):
        assert render_markdown(content) == html

    @pytest.mark.parametrize(
        ("content", "html"),
        [
            ("[a](https://a.example)", link("https://a.example", "a")),
            ("![a](https://a.example)", link("https://a.example", "a")),
            ("![](https://a.example)", link("https://a.example")),
            ("<https://a.example>", link("https://a.example")),
            ("*https://a.example/b_*", f"<em>{link('https://a.example/b')}_</em>"),
            ("_http://a.example_", f"<em>{link('http://a.example')}</em>"),
            ("https://a.example/*b*c", link("https://a.example/*b*c")),
            ("[https://a.example](http://b)", link("http://b", "https://a.example")),
            ("`https://a.example`", "<code>https://a.example</code>"),
            ("[a](/b)", "[a](/b)"),
            ("[a](mailto:b@c.example)", "[a](mailto:b@c.example)"),
        ],
    )
    def test_links(self, content, html):
        assert f'<p dir="auto">{html}</p>\n' == render_markdown(content)


class TestHostileMarkup:
    @pytest.mark.parametrize("content", MARKUP, ids=ascii)
    def test_only_allowed_html(self, content):
        assert find_violations(render_plain(content)) == []
        assert find_violations(render_markdown(content)) == []
        assert find_violations(rendering.sanitizer.clean(content)) == []

    def test_timeout(self, monkeypatch):
        monkeypatch.setattr(rendering, "MAX_PARSING_TIME", 0)

        assert render_markdown("*a*") == '<p dir="auto">*a*</p>'


class TestRender:
    async def test_event_loop_is_not_blocked(self):
        content = "*a*\n\n" * 1000
        ticks = 0
        task = asyncio.ensure_future(render(content, "markdown"))

        while not task.done():
            ticks += 1
            await asyncio.sleep(0)

        assert ticks > 10
        assert "<em>a</em>" in task.result()

    @pytest.mark.parametrize(
        ("content", "post_format"),
        [("a" * (MAX_INLINE_LENGTH + 1), "plain"), ("a", "markdown")],
    )
    async def test_rendered_once(self, monkeypatch, content, post_format):
        threads = []

        def record(_content: str) -> str:
            threads.append(threading.current_thread())
            return "html"

        monkeypatch.setattr(rendering, f"render_{post_format}", record)

        htmls = [await render(content, post_format) for _ in range(2)]

        assert htmls == ["html"] * 2
        assert len(threads) == 1
        assert threads[0] is not threading.main_thread()

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/posts/{id}"),
            ("GET", "/api/posts/{id}"),
            ("POST", "/api/posts"),
            ("POST", "/api/preview"),
            ("PUT", "/api/posts/{id}"),
            ("PATCH", "/api/posts/{id}"),
            ("DELETE", "/api/posts/{id}"),
        ],
    )
    async def test_too_busy(self, client, ada, monkeypatch, method, path):
        async def reject(*_: object) -> None:
            raise QueueFull

        post_in = {"title": "", "content": "*a*", "format": "markdown"}
        post = await create_post(client, ada, **post_in)
        listed = (await client.get("/api/posts")).json()
        rendering._rendered.clear()
        monkeypatch.setattr(rendering.rendering, "run", reject)

        response = await client.request(
            method,
            path.format(**post),
            json=post_in | {"content": "*b*"},
            headers={**ada, "If-Match": '"a"'},
        )

        assert response.status_code == 503
        assert (await client.get("/api/posts")).json() == listed


class TestTextWithoutMarkup:
    @pytest.fixture(autouse=True)
    def enough_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Allow more time, because the garbage collection of all tests takes 0.1 s."""
        monkeypatch.setattr(rendering, "MAX_SUMMARY_PARSING_TIME", 1)

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ("# A *b*\n\nc\nd [e](https://f.example) `g`", "A b\nc\nd e g"),
            ("- a\n- b\n\n> c", "a\nb\nc"),
            ("![a](https://b.example)", "a"),
            ("|a|b|\n|-|-|\n|c|d|", "a\nb\nc\nd"),
            ("```py\na\n```\nb", "a\n\nb"),
            ("&lt;b&gt; <i> 2 * 3 * 4", "<b> <i> 2 * 3 * 4"),
            ("---", "---"),
            ("[a]: https://b.example", "[a]: https://b.example"),
        ],
    )
    def test_markdown(self, content, text):
        assert text_without_markup(content, "markdown") == text

    def test_plain(self):
        assert text_without_markup("*a*", "plain") == "*a*"

    def test_timeout(self, monkeypatch):
        monkeypatch.setattr(rendering, "MAX_SUMMARY_PARSING_TIME", 0)

        assert text_without_markup("*timeout*", "markdown") == "*timeout*"
