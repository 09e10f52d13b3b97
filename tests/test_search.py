"""Search: the API, the results page, queries, and the words of posts."""

import asyncio
from urllib.parse import parse_qs, quote

import pytest
from sqlalchemy import text

import queries
from middleware.response_cache import cache
from search import MAX_QUERY_LENGTH, Search
from tests.conftest import create_post, sign_up


async def titles(client, q, **parameters):
    response = await client.get("/api/posts", params={"q": q, **parameters})
    assert response.status_code == 200, response.text
    return [post["title"] for post in response.json()["posts"]]


class TestMatches:
    @pytest.mark.parametrize(
        ("title", "content", "q"),
        [
            ("Tomatoes", "in the garden", "garden tomatoes"),
            ("Title", "The Garden.", "gar"),
            ("Title", "Crème brûlée", "CREME brulee"),
            ("Title", "creme", "crème"),
            ("Title", "CRE\u0300ME, na\u00adive", "crème naive"),
            ("Title", "ЖЁЛУДЬ, ΛΌΓΟΣ, Łódź", "желудь λογος lodz"),
            ("Title", "“Quoted” — and/or ada@example.com…", "quoted or example"),
            ("Title", "if a < b and c > d", "b and c"),
            ("Title", "Don't panic", "don't"),
            ("Title", "version 2.5 of 1e5abc", "2.5 1e5a"),
            ("Title", "日本語。テスト", "日本語"),
            ("Title", "한국어 문서", "한국어 문"),
            ("Title", "The old house by the sea", '"old house" the "by the'),
            ("Title", "The old house", "“old house”"),
        ],
    )
    async def test_found(self, client, ada, title, content, q):
        await create_post(client, ada, title=title, content=content)

        assert await titles(client, q) == [title]

    @pytest.mark.parametrize(
        "q",
        [
            *("garden shed", "gar tomatoes", "omato", '"tomatoes the"', '"gard"'),
            *("", " ", '"', "!?", "😀", "\u0301", "garden & !tomatoes | x"),
        ],
    )
    async def test_not_found(self, client, ada, q):
        await create_post(client, ada, title="T", content="the garden of tomatoes")

        response = await client.get("/api/posts", params={"q": q})

        assert response.status_code == 200
        assert response.json() | {"limit": 0} == {
            "posts": [],
            "total": 0,
            "skip": 0,
            "limit": 0,
            "has_more": False,
            "next_cursor": None,
        }

    async def test_follows_edits(self, client, ada):
        post = await create_post(client, ada, title="Tea", content="Green")

        await client.patch(
            f"/api/posts/{post['id']}", json={"title": "Oats"}, headers=ada
        )

        assert (await titles(client, "oats"), await titles(client, "tea")) == (
            ["Oats"],
            [],
        )


class TestPages:
    @pytest.fixture
    async def posts(self, client, ada, db):
        """Publish 3,000 posts with the word "all", every tenth of which has "some"."""
        author = (await create_post(client, ada, content="Other"))["user_id"]
        await db.execute(
            text(
                """INSERT INTO posts (title, content, user_id, date_posted)
                   SELECT n::text, CASE WHEN n % 10 = 0 THEN 'all some' ELSE 'all' END
                       || CASE WHEN n <= 5 THEN ' old' ELSE '' END, :author,
                       timestamptz '2026-01-01 00:00Z' + n * interval '1 minute'
                   FROM generate_series(1, 3000) AS n"""
            ),
            {"author": author},
        )

    @pytest.mark.parametrize(
        ("q", "skip", "expected", "total", "has_more"),
        [
            ("all", 0, ["3000", "2999", "2998"], 1001, True),
            ("all", 2500, ["500", "499", "498"], 1001, True),
            ("all", 2998, ["2", "1"], 1001, False),
            ("all", 2**31 - 1, [], 1001, False),
            ("some", 0, ["3000", "2990", "2980"], 300, True),
            ("some", 250, ["500", "490", "480"], 300, True),
            ("some", 298, ["20", "10"], 300, False),
            ("old", 0, ["5", "4", "3"], 5, True),
            ("old", 3, ["2", "1"], 5, False),
        ],
    )
    async def test_skip(self, client, posts, q, skip, expected, total, has_more):
        query = {"q": q, "skip": skip, "limit": 3}

        page = (await client.get("/api/posts", params=query)).json()

        assert [post["title"] for post in page["posts"]] == expected
        assert (page["total"], page["has_more"]) == (total, has_more)

    @pytest.mark.parametrize("few", [1, 4, 10_000])
    @pytest.mark.parametrize("q", ["all", "some", "old a", "zzz o"])
    async def test_words_of_any_frequency(self, client, posts, monkeypatch, few, q):
        expected = await titles(client, q)
        monkeypatch.setattr(queries, "SAMPLE", 1)
        monkeypatch.setattr(queries, "FEW", few)
        queries.search_statement.cache_clear()

        found = await titles(client, q)
        queries.search_statement.cache_clear()

        assert found == expected

    @pytest.mark.parametrize("q", ["some", "old", "all so"])
    async def test_link_continues_search(self, client, posts, q):
        first = await client.get("/api/posts", params={"q": q, "limit": 2})

        second = await client.get(first.links["next"]["url"])

        assert parse_qs(first.links["next"]["url"].partition("?")[2])["q"] == [q]
        assert second.json()["total"] == first.json()["total"]
        shown = [
            post["title"] for post in first.json()["posts"] + second.json()["posts"]
        ]
        assert shown == await titles(client, q, limit=4)

    async def test_page_says_more_than_1000(self, client, posts):
        page = await client.get("/search", params={"q": "all", "page": 2})

        assert "More than 1,000 posts found." in page.text
        assert 'href="/search?q=all&amp;page=3"' in page.text
        assert 'href="/search?q=all"' in page.text

    async def test_beyond_the_last_page(self, client, posts):
        page = await client.get("/search", params={"q": "old", "page": 2})

        assert page.status_code == 404
        assert 'href="/search?q=old"' in page.text


class TestInvalid:
    @pytest.mark.parametrize("path", ["/api/posts", "/search"])
    @pytest.mark.parametrize(
        "query", ["q=a%00b", "q=" + "a" * (MAX_QUERY_LENGTH + 1), "q=a&page=0&skip=-1"]
    )
    async def test_unprocessable(self, client, path, query):
        response = await client.get(f"{path}?{query}")

        assert response.status_code == 422

    @pytest.mark.parametrize("path", ["/api/posts", "/search"])
    @pytest.mark.parametrize(
        "q",
        [
            *(
                b"\xed\xa0\x80",
                b"\xff",
                b"'",
                b"\\",
                b"\\' | !x",
                b"a:*B & (",
                b"<2> <->",
            ),
            *("ﷺ" * MAX_QUERY_LENGTH, "\U0001d165" * 200, "½ⓐ⑴ŉ", "\u0640\u200d"),
            *("a " * 100, '"' * 200, "\U00020000" * 200, "㌖" * 200),
        ],
    )
    async def test_hostile(self, client, ada, path, q):
        await create_post(client, ada)

        response = await client.get(f"{path}?q={quote(q)}")

        assert response.status_code == 200

    @pytest.mark.parametrize(
        "content",
        [
            "ﷺ" * 100_000,
            "\u0301\u0323" * 50_000,
            "\u093c\u094d" * 50_000,
            "\U0001d160 " * 50_000,
            "".join(chr(0x20000 + n) + " " for n in range(40_000)) + "x" * 20_000,
            "\U00020000" * 100_000,
            "".join(f"{n:x} " for n in range(20_000)),
        ],
    )
    async def test_longest_content(self, client, ada, content):
        post = await create_post(client, ada, title="Longest", content=content)

        assert post["content"] == content
        assert await titles(client, "longest") == ["Longest"]


class TestPage:
    async def test_form_without_query(self, client):
        page = await client.get("/search")

        assert (
            '<input class="form-control" type="search" id="search" name="q"'
            in page.text
        )
        assert '<meta name="robots" content="noindex">' in page.text
        assert "found" not in page.text

    async def test_highlights(self, client, ada):
        await create_post(
            client,
            ada,
            title="<b>Café</b> & <i>",
            content="İİ in the cafe\u0301s, a CAFE.",
        )

        page = await client.get("/search", params={"q": '"the cafes" cafe'})

        assert "&lt;b&gt;<mark>Café</mark>&lt;/b&gt; &amp; &lt;i&gt;</a>" in page.text
        assert ">İİ in <mark>the cafés</mark>, a <mark>CAFE</mark>.</p>" in page.text

    async def test_excerpt_begins_near_match(self, client, ada):
        await create_post(client, ada, content="word " * 100 + "needle")

        page = await client.get("/search", params={"q": "needle"})

        assert f">…{'word ' * 19}<mark>needle</mark></p>" in page.text

    async def test_query_is_escaped(self, client):
        page = await client.get("/search", params={"q": '"><script>'})

        assert "<script>" not in page.text.partition("<main")[2]
        assert 'value="&#34;&gt;&lt;script&gt;"' in page.text
        assert "No posts contain all of these words." in page.text


class TestQuery:
    @pytest.mark.parametrize(
        ("q", "tsquery"),
        [
            ("old house", "'old' & 'house':*"),
            ('"old house"', "'old' <-> 'house'"),
            ('sea "old house', "'sea' & 'old' <-> 'house':*"),
            ('"old house" sea', "'old' <-> 'house' & 'sea':*"),
            ("don't-panic!", "'don' <-> 't' <-> 'panic':*"),
            ("a':*&|!()<->\\'b", "'a' <-> 'b':*"),
            ("\uff07\uff5c\uff06", ""),
            ('""', ""),
        ],
    )
    def test_tsquery(self, q, tsquery):
        assert Search(q).tsquery == tsquery

    @pytest.mark.parametrize(
        ("q", "tsquery"),
        [("a b", "'a'"), ("a bcd", "'a' & 'bcd':*"), ("b", "'b':*"), ('"a"', "'a'")],
    )
    def test_tsquery_for_index(self, q, tsquery):
        assert Search(q).tsquery_for_index == tsquery


class TestCache:
    async def test_search_is_not_stored(self, concurrent_client, cache_on):
        paths = ("/api/posts", "/api/posts?q=", "/api/posts?q=7", "/search?q=7")
        await asyncio.gather(*map(concurrent_client.get, paths))

        assert [key[:2] for key in cache._new] == [("/api/posts", b"")]

    async def test_list_is_not_served(self, concurrent_client, cache_on):
        ada = await sign_up(concurrent_client, "ada")
        await create_post(concurrent_client, ada)
        await concurrent_client.get("/api/posts")

        assert await titles(concurrent_client, "7") == []
