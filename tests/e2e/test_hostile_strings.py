"""A hundred hostile strings in every field and on every page.

`--stress` tests all of them; otherwise only a few of each kind.
"""

import json
import unicodedata
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import pytest
from playwright.sync_api import ConsoleMessage, Locator, Page, expect

from tests.conftest import PASSWORD
from tests.e2e.conftest import (
    PHONE,
    Blog,
    Json,
    NewContext,
    Person,
    button,
    dialog,
    fill,
    log_in,
    navigation,
    start_edit,
)
from tests.stress.conftest import FULL

RUN = "__pwned=1"
STRINGS = [
    # Strings that have broken pages before
    "\u0e49" * 60 + "\U0001d173\U000e0041",
    "a  b   c\td\n\n\ne",
    # Elements and attributes
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg/onload={RUN}//",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f'<math><mtext></form><form><mglyph><style></math><img src onerror="{RUN}">',
    f"<body onload={RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<iframe src=javascript:parent.{RUN}>",
    f'<object data="data:text/html,<script>{RUN}</script>"></object>',
    f"<embed src=javascript:{RUN}>",
    f"<details open ontoggle={RUN}>",
    f"<video><source onerror={RUN}></video>",
    f"<audio src=x onerror={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    f"<select autofocus onfocus={RUN}>",
    f"<textarea autofocus onfocus={RUN}>",
    f"<marquee onstart={RUN}>",
    f"<a href=javascript:{RUN} autofocus onfocus={RUN}>x</a>",
    f"<form action=javascript:{RUN}><button autofocus>x</button></form>",
    f"<button formaction=javascript:{RUN} popovertarget=x onclick={RUN}>x",
    f"<xss id=x tabindex=1 onfocus={RUN} autofocus></xss>",
    f"<style onload={RUN}></style>",
    f"<link rel=stylesheet href=x onerror={RUN}>",
    "<link rel=import href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example/>",
    f"<template><script>{RUN}</script></template>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<dialog open onclose={RUN}><button>x</button></dialog>",
    "<plaintext>",
    "<table><tr><td></table></div></main></body></html>",
    "</p></article></li></ol></main>",
    "<h1>heading</h1><nav>menu</nav><main>page</main>",
    # Escaping from context
    f'"><img src=x onerror={RUN}>',
    f"'><img src=x onerror={RUN}>",
    f"`><img src=x onerror={RUN}>",
    f"' autofocus onfocus='{RUN}",
    f'" autofocus onfocus="{RUN}',
    f"x onerror={RUN} ",
    f"</title><script>{RUN}</script>",
    f"</textarea><script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</SCRIPT ><sCrIpT>{RUN}</ScRiPt>",
    f"</style><script>{RUN}</script>",
    f"</template><script>{RUN}</script>",
    f"</q></bdi></time><script>{RUN}</script>",
    f"--><script>{RUN}</script><!--",
    f"<!--><script>{RUN}</script>-->",
    f"<![CDATA[<script>{RUN}</script>]]>",
    f"]]></content><script xmlns='http://www.w3.org/1999/xhtml'>{RUN}</script>",
    f"</entry></feed><?xml-stylesheet href='javascript:{RUN}'?>",
    "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>&e;",
    # JSON and scripts
    f'"}}</script><script>{RUN}</script>{{"a":"',
    '","@type":"Person","name":"',
    "\\u003cscript\\u003e\\x3cscript>",
    f'\\";{RUN};//',
    f"';{RUN};//",
    f"`;{RUN};`${{{RUN}}}",
    f"\u2028{RUN}\u2029",
    f"javascript:{RUN}",
    f"JaVaScRiPt\t:{RUN}//",
    f"javascript://%0a{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    f"vbscript:{RUN}",
    "__proto__",
    "constructor.prototype",
    "[object Object]",
    "undefined",
    "$& $1 $` $' $$ \\1",
    "%s %d %n %(x)s {} {0.__class__}",
    # Template syntax
    "{{7*7}}",
    "{% for x in [].__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{# comment #}{% raw %}{{ config }}{% endraw %}",
    f"${{7*7}} #{{7*7}} <%= 7*7 %> @(7*7) [[7*7]] *{{{RUN}}}",
    "{{constructor.constructor('__pwned=1')()}}",
    # Entities and encodings
    "&lt;script&gt;&#60;script&#62;&amp;lt;&#x26;#x3c;",
    "&nbsp;&zwj;&NotAnEntity;&#0;&#xD800;&#x110000;",
    "%3Cscript%3E%26lt%3B+%2B%00",
    "+ADw-script+AD4-__pwned=1+ADw-/script+AD4-",
    "\u02bascript\u02ba \uff1cscript\uff1e \u2039b\u203a \ufe64script\ufe65",
    # Problematic characters
    "\u202ereversed\u202c \u2067isolated\u2069 \u202dforced",
    "\u05d0\u05d1\u05d2 \u0645\u0631\u062d\u0628\u0627 abc 123 (\u05d3) <b>",
    "zero\u200bwidth\u200c\u200d\u2060\ufeff\u00adjoin",
    "Z" + "\u0300\u0323\u0338\u0489" * 20 + "a" + "\u030d\u0353" * 20,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466\U0001f1e9\U0001f1ea"
    * 5,
    "\U0001f44d\U0001f3ff\ufe0f\u20e3 #\ufe0f\u20e3 \U0001f3f4\U000e0067\U000e007f",
    "\ufdfa" * 30,
    "W" * 3_000,
    "https://example.com/" + "a/" * 500,
    "\u00a0" * 10 + "no-break" + "\u00a0" * 50 + "end",
    "i\u0307\u0130\u0131\u017f\u1e9e\ufb01\u2126",
    # CSS and Markdown
    f"x;}}*{{background:url(//evil.example);behavior:url({RUN})}}",
    "expression(__pwned=1) position:fixed;inset:0;z-index:9999",
    f'![x](x"onerror={RUN}) [x](javascript:{RUN}) <javascript:{RUN}>',
    "# Heading\n\n* item\n\n    code\n\n---\n\n| a | b |\n| - | - |",
    f"jaVasCript:/*-/*`/*\\`/*'/*\"/**/(/* */oNcliCk={RUN} )//%0D%0A//</stYle/</titLe/"
    f"</teXtarEa/</scRipt/--!>\\x3csVg/<sVg/oNloAd={RUN}//>\\x3e",
]
CHOSEN = STRINGS if FULL else STRINGS[:2] + STRINGS[3::17]

# URLs that a redirect must not lead to.
RETURN_ADDRESSES = [
    "//[",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "\n//evil.example",
    "https://evil.example",
    "https:evil.example",
    "http:/evil.example",
    "//127.0.0.1@evil.example",
    f"javascript:{RUN}",
    f" javascript:{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    "blob:x",
    "/login",
    "/login?next=//evil.example",
    "/account/../login",
    "/%2f%2fevil.example",
    "/.//evil.example",
    "/..//evil.example",
    "/?page=%zz#%",
]
CHOSEN_ADDRESSES = RETURN_ADDRESSES + STRINGS if FULL else RETURN_ADDRESSES[::6]

EMAILS = [
    f"'+{RUN.replace('=', '_')}+'@example.com",
    "{{7*7}}@example.com",
    "${7*7}`$`@example.com",
    "a&lt/b&#60/c@example.com",
    "%3cscript%3e@example.com",
    "!#$%&'*+-/=?^_`{|}~@example.com",
    f"{'w' * 64}@{'example-' * 5}.com".replace("-.", "."),
    "\u05d0\u05d1\u05d2@example.com",
]

ATOM = "{http://www.w3.org/2005/Atom}"
# Tag and attribute names cannot contain text.
STRUCTURE = """(root) => [...root.querySelectorAll("*")].map((element) =>
    [element.localName, ...element.getAttributeNames().sort()].join(" "))"""
IS_TOO_WIDE = "document.documentElement.scrollWidth > window.innerWidth"
# Characters that usernames must not contain; see the contract.
NAMELESS = {"Cc", "Cf", "Zl", "Zp", "Co", "Cs"}

GROUPS = [CHOSEN[start : start + 10] for start in range(0, len(CHOSEN), 10)]
each_group = pytest.mark.parametrize("strings", GROUPS, ids=range(len(GROUPS)))


def make_username(string: str, number: int) -> str:
    """Make a unique valid username from a string."""
    letters = [char for char in string if unicodedata.category(char) not in NAMELESS]
    composed = unicodedata.normalize("NFC", "".join(letters))
    return f"{composed[:45].strip()} {number}".strip()


def sign_up(blog: Blog, name: str, email: str) -> Person:
    """Create an account with a given email address."""
    account = {"username": name, "email": email, "password": PASSWORD}
    user = blog.call("POST", "/api/users", json=account)
    return Person(user["id"], user["username"], user["email"], blog.new_token(email))


def write_all(blog: Blog, strings: list[str]) -> list[Json]:
    """Publish each string as title, content and username, newest first."""
    for number, string in enumerate(strings):
        author = sign_up(blog, make_username(string, number), f"u{number}@example.com")
        blog.write(author, string, string[:100])
    posts: list[Json] = blog.call("GET", "/api/posts?limit=100")["posts"]
    return posts[: len(strings)]


def normalize_newlines(text: str) -> str:
    """Return a text as a browser stores it: a carriage return becomes a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def texts(page: Page, hook: str) -> list[str]:
    """Return the texts of all elements with a hook."""
    return page.locator(f"[data-{hook}]").all_text_contents()


def structure(page: Page, selector: str) -> list[list[str]]:
    """Return the elements inside each match of a selector."""
    found: list[list[str]] = page.locator(selector).evaluate_all(
        f"(roots) => roots.map({STRUCTURE})"
    )
    return found


def expect_whole(page: Page, string: str) -> None:
    """Expect no overflow and a complete page."""
    expect(page.get_by_role("contentinfo")).to_contain_text("FastAPI Blog")
    expect(navigation(page)).to_be_attached()
    assert not page.evaluate(IS_TOO_WIDE), f"too wide: {string!r}"


def structured_data(page: Page) -> tuple[str, str]:
    """Return the headline and author of a page's structured data."""
    text = page.locator("script[type='application/ld+json']").inner_text()
    data = json.loads(text)
    return data["headline"], data["author"]["name"]


@pytest.fixture
def phone(new_context: NewContext) -> Page:
    """Open a narrow page without login."""
    return new_context(viewport=PHONE).new_page()


def test_there_are_a_hundred_strings() -> None:
    assert len(STRINGS) == len(set(STRINGS)) == 100


def test_hostile_strings_are_escaped_in_script_lists(phone: Page, blog: Blog) -> None:
    plain = sign_up(blog, "plain", "plain@example.com")
    blog.write(plain, "Plain", "Plain")
    posts = write_all(blog, CHOSEN)
    blog.write_many(plain, 10)

    phone.goto("/")
    for shown in range(10, 11 + len(posts), 10):
        button(phone, "Load more").click()
        expect(phone.locator("[data-post-card]").nth(shown)).to_be_attached()

    *cards, expected = structure(phone, "[data-post-card]")[10:]
    assert shown_list(phone)[10:-1] == expected_list(posts)
    assert [card for card in cards if card != expected] == []
    expect_whole(phone, "a list")


def test_hostile_strings_are_escaped_in_server_lists(phone: Page, blog: Blog) -> None:
    posts = write_all(blog, CHOSEN)
    blog.write_many(sign_up(blog, "plain", "plain@example.com"), 10)
    phone.goto("/")
    expected = structure(phone, "[data-post-card]")[0]

    for start in range(0, len(posts), 10):
        phone.goto(f"/?page={start // 10 + 2}")

        assert shown_list(phone) == expected_list(posts[start : start + 10])
        cards = structure(phone, "[data-post-card]")
        assert [card for card in cards if card != expected] == []
        expect_whole(phone, f"page {start}")


def shown_list(page: Page) -> list[tuple[str, ...]]:
    """Return the title, author and excerpt of all listed posts."""
    hooks = (
        "post-card-target=link",
        "post-card] [data-byline-target=username",
        "post-card-target=excerpt",
    )
    return list(zip(*(texts(page, hook) for hook in hooks), strict=True))


def expected_list(posts: list[Json]) -> list[tuple[str, ...]]:
    """Return the expected title, author and excerpt of these posts."""
    return [
        (
            post["display_title"],
            post["author"]["username"],
            normalize_newlines(post["excerpt"]),
        )
        for post in posts
    ]


# One string after another on the same page, to reuse the browser's cache.


@pytest.fixture
def ada_phone(new_context: NewContext, ada: Person) -> Page:
    """Open a narrow page where ada is logged in."""
    return new_context(ada, viewport=PHONE).new_page()


@pytest.fixture
def script_calls(ada_phone: Page) -> list[str]:
    """Collect calls of injected scripts: see `WATCH`."""
    noted: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # As in `watch`, which only reports at the end.
        if message.type == "error" and "Failed to load resource" not in message.text:
            noted.append(message.text)

    ada_phone.on("console", note)
    return noted


def rename(blog: Blog, person: Person, name: str) -> str:
    """Rename a user and return the stored username."""
    change = {"username": name}
    user = blog.call("PATCH", f"/api/users/{person.id}", person, json=change)
    return str(user["username"])


def expect_named(page: Page, name: str) -> None:
    """Expect the page to show the username, which narrow screens have in the menu."""
    shown = navigation(page).locator("[data-navbar-target=username]")
    expect(shown).to_have_text(" ".join(name.split()))
    assert shown.text_content() == name


@each_group
def test_hostile_string_is_escaped_on_post_page(
    ada_phone: Page,
    blog: Blog,
    ada: Person,
    script_calls: list[str],
    strings: list[str],
) -> None:
    page = ada_phone
    page.goto(f"/posts/{blog.write(ada, 'Plain', 'Plain')['id']}")
    expect_named(page, ada.name)
    expected = structure(page, "html")

    for number, string in enumerate(strings):
        name = rename(blog, ada, make_username(string, number))
        post = blog.write(ada, string, string[:100])
        page.goto(f"/posts/{post['id']}")
        expect_named(page, name)

        assert structure(page, "html") == expected, string
        assert shown_post(page) == expected_texts(post), string
        assert structured_data(page) == (post["display_title"], name), string
        expect_whole(page, string)
        page.goto(f"/users/{ada.id}/posts")
        assert page.get_by_role("heading", level=1).text_content() == name
        assert get_title(page) == f"{name} – FastAPI Blog"
        expect_whole(page, string)
        page.goto("/account")
        expect(page.locator("[data-account-profile] [name=username]")).to_have_value(
            name
        )
        expect_whole(page, string)
        assert script_calls == [], string


@each_group
def test_hostile_string_is_escaped_in_dialogs(
    ada_phone: Page,
    blog: Blog,
    ada: Person,
    script_calls: list[str],
    strings: list[str],
) -> None:
    page = ada_phone
    post = blog.write(ada, "Plain", "Plain")

    for string in strings:
        form = start_edit(page, post)
        assert shown_text(form) == (post["title"], normalize_newlines(post["content"]))
        change = {"title": string[:100], "content": string}
        blog.call("PATCH", f"/api/posts/{post['id']}", ada, json=change)
        mine = string.replace("\n", " ")[:90] + "!"
        fill(form, title=mine, content=mine)
        button(form, "Save changes").click()
        expect(form.locator("[data-edit-conflict]")).to_be_focused()
        conflict = [
            *texts(page, "edit-conflict-target=title"),
            *texts(page, "edit-conflict-target=content"),
        ]
        button(form, "Keep my version").click()
        expect(dialog(page, "Done")).to_be_visible()

        post = blog.call("GET", f"/api/posts/{post['id']}")
        assert conflict == [string[:100].strip(), string], string
        assert shown_post(page) == expected_texts(post), string
        expect_whole(page, string)
        assert script_calls == [], string


def shown_text(form: Locator) -> tuple[str, str]:
    """Return the content of a form's input."""
    return (
        form.get_by_label("Title").input_value(),
        form.get_by_label("Content", exact=True).input_value(),
    )


def get_title(page: Page) -> str:
    """Return the tab's title with all whitespace."""
    return page.locator("title").text_content() or ""


def shown_post(page: Page) -> list[str]:
    """Return the texts of the post on the page."""
    return [
        get_title(page),
        *texts(page, "post-view-target=title"),
        *texts(page, "post-view-target=content"),
        *texts(page, "byline-target=username"),
    ]


def expected_texts(post: Json) -> list[str]:
    """Return the expected texts of the post."""
    title = post["display_title"]
    content = normalize_newlines(post["content"])
    return [f"{title} – FastAPI Blog", title, content, post["author"]["username"]]


def test_hostile_strings_are_escaped_in_feeds(page: Page, blog: Blog) -> None:
    posts = write_all(blog, CHOSEN)[:20]
    source = blog.client.get("/feed.atom").text

    page.goto("/feed.atom")

    # This browser does not render feeds and shows their source.
    assert page.locator("body").text_content() == source
    entries = ElementTree.fromstring(source).findall(f"{ATOM}entry")
    titles = [entry.findtext(f"{ATOM}title") for entry in entries]
    assert titles == [post["display_title"] for post in posts]
    names = [entry.findtext(f"{ATOM}author/{ATOM}name") for entry in entries]
    assert names == [post["author"]["username"] for post in posts]


@pytest.mark.parametrize("email", EMAILS if FULL else EMAILS[::4])
def test_hostile_email_is_escaped_on_account_page(
    new_context: NewContext, blog: Blog, email: str
) -> None:
    owner = sign_up(blog, "ada", email)
    page = new_context(owner, viewport=PHONE).new_page()

    page.goto("/account")

    expect(page.locator("[data-account-profile] [name=email]")).to_have_value(
        owner.email
    )
    expect_whole(page, email)


# URLs

PLACES = [
    "/?page={0}",
    "/?q={0}&search={0}&cursor={0}#{0}",
    "/posts/{0}",
    "/users/{0}/posts?page={0}",
    "/reset-password?token={0}#{0}",
    "/register?next={0}&email={0}",
    "/{0}",
]


def test_hostile_url_is_not_echoed(phone: Page, blog: Blog) -> None:
    # Not found, invalid URL, or the normal page.
    errors = [get_page_text(phone, path) for path in ("/none", "/posts/x")]

    for place in PLACES:
        expected = [*errors, get_page_text(phone, place.format("x"))]
        for string in CHOSEN[:: 1 if FULL else 4]:
            encoded = quote(string.encode()[:2_000], safe="")
            assert get_page_text(phone, place.format(encoded)) in expected, (
                place,
                string,
            )
            expect_whole(phone, string)


def get_page_text(page: Page, path: str) -> str:
    """Return all text of a page."""
    page.goto(path)
    return page.locator("body").inner_text()


def test_hostile_return_url_stays_on_this_site(ada_phone: Page, blog: Blog) -> None:
    for return_url in CHOSEN_ADDRESSES:
        ada_phone.goto(f"/login?next={quote(return_url.encode()[:2_000], safe='')}")
        ada_phone.wait_for_url(lambda url: urlsplit(url).path != "/login")
        assert ada_phone.url.startswith(f"{blog.url}/"), return_url


def test_login_ignores_hostile_return_url(phone: Page, blog: Blog, ada: Person) -> None:
    phone.goto("/login?next=//evil.example/%5c%09//evil.example")

    log_in(phone, ada.email)

    expect(phone).to_have_url(f"{blog.url}/")
