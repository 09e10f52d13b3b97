"""Truncation, visibility and identity of text."""

import pytest

from models import Post
from tests.conftest import create_post
from unicode_text import caseless_key, is_visible, truncate, without_bidi_controls

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


class TestTruncate:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("sixteen letters!", "sixteen letters!"),
            ("one two three four five", "one two three…"),
            ("one two three\tfour", "one two three…"),
            ("one two three\n\nfour", "one two three…"),
            ("one two three a bc", "one two three a…"),
            ("字" * 13 + "\u3000" + "字" * 9, "字" * 13 + "…"),
            # The only whitespace is too far from the limit.
            ("See " + "a" * 20, "See " + "a" * 11 + "…"),
            ("Hi\n" + "字" * 20, "Hi\n" + "字" * 12 + "…"),
            ("Python の" + "字" * 20, "Python の" + "字" * 7 + "…"),
            # The limit falls inside a flag, an accented letter, or a family emoji.
            ("🇩🇪" * 10, "🇩🇪" * 7 + "…"),
            ("e\u0301" * 10, "e\u0301" * 7 + "…"),
            (FAMILY * 4, FAMILY * 3 + "…"),
            # Whitespace with an accent, whitespace after a sign that precedes a number,
            # and a letter with too many accents.
            ("a" * 14 + " \u0301bc", "a" * 14 + "…"),
            ("a" * 13 + "\u0601 bcd", "a" * 13 + "\u0601 …"),
            ("a" + "\u0301" * 20, "…"),
        ],
        ids=ascii,
    )
    def test_at_most_sixteen_characters(self, text, expected):
        assert truncate(text, 16) == expected

    @pytest.mark.parametrize(
        "content",
        [
            "Python の" + "字" * 400,
            "See https://example.com/" + "a" * 400,
            "नमस्ते " + "क्षत्रिय" * 60,
        ],
        ids=ascii,
    )
    def test_long_words_are_cut(self, content):
        post = Post(title="", content=content)

        assert 48 <= len(post.display_title) <= 60
        assert 240 <= len(post.excerpt) <= 300

    def test_invisible_beginning_is_skipped(self):
        post = Post(title="", content="\u3164\u200b \n" * 100 + "Hello")

        assert post.display_title == "Hello"
        assert post.excerpt == "Hello"

    def test_sign_before_a_number_is_kept(self):
        assert Post(title="", content=" \u0601\u0661").display_title == "\u0601\u0661"


class TestIsVisible:
    @pytest.mark.parametrize(
        "text",
        ["a", " é ", "字", "🇩🇪", "\u200dم", "\u06dd", "\uf8ff", "\U0001faff"],
        ids=ascii,
    )
    def test_visible(self, text):
        assert is_visible(text)

    @pytest.mark.parametrize(
        "text",
        [
            *("", " ", "\ufdd0", "\u200d", "\u3164", "\u2800", "\u3000\ufe0f"),
            *("\U00013441", "\U00013442", "\U00016fe4", "\U0001d159"),
        ],
        ids=ascii,
    )
    def test_invisible(self, text):
        assert not is_visible(text)


class TestCaselessKey:
    @pytest.mark.parametrize(
        ("text", "other"),
        [
            ("Alice", "AL\u200dice"),
            ("Alice", " Ａｌｉｃｅ\ufe0f"),
            ("Alice", "\U0001d400lice"),
            ("Al ice", "Al \u3000ice"),
            ("STRASSE", "straße"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("ﬁn", "FIN"),
            ("é", "E\u0301"),
        ],
        ids=ascii,
    )
    def test_same_words(self, text, other):
        assert caseless_key(text) == caseless_key(other)

    @pytest.mark.parametrize("other", ["Al ice", "Alicé", "Аlice"], ids=ascii)
    def test_other_name(self, other):
        assert caseless_key(other) != caseless_key("Alice")


class TestBidiControls:
    def test_are_removed(self):
        assert without_bidi_controls("a\u202eb\u2066c\u200f") == "abc\u200f"

    async def test_title_is_stored_as_typed(self, client, ada):
        post = await create_post(client, ada, title="a\u202eb")

        assert post["title"] == "a\u202eb"
        assert post["display_title"] == "ab"

    @pytest.mark.parametrize("path", ["/", "/posts/{id}", "/feed.atom"])
    async def test_are_not_in_titles(self, client, ada, path):
        post = await create_post(client, ada, title="a\u202eb\u2067c", content="x")

        page = (await client.get(path.format(**post))).text

        assert "abc" in page
        assert "\u202e" not in page.partition("data-post-form")[0]

    async def test_are_not_in_description(self, client, ada):
        post = await create_post(client, ada, content="a\u202eb")

        page = (await client.get(f"/posts/{post['id']}")).text

        assert '<meta name="description" content="ab">' in page
