"""Scripts and templates create no HTML or code from strings."""

import re
from pathlib import Path

import pytest

from config import BASE_DIR

# Each with its alternative.
BANNED = {
    r"\b(?:inner|outer)HTML\b": "set textContent, or clone a <template>",
    r"\binsertAdjacentHTML\b": "insert an element",
    r"\bcreateContextualFragment\b": "clone a <template>",
    r"\b(?:DOMParser|parseFromString|parseHTMLUnsafe)\b": "clone a <template>",
    r"\bsetHTML(?:Unsafe)?\b": "set textContent, or clone a <template>",
    r"\bsrcdoc\b": "let the server render it",
    r"\bdocument\s*\.\s*write(?:ln)?\b": "append an element",
    r"\beval\b": "write the code itself",
    r"\bFunction\s*\(": "write the code itself",
    r"\bset(?:Timeout|Interval)\s*\(\s*[\"'`]": "pass a function",
    r"(?i)\bjavascript:": "listen for the event in a module",
    # An attribute in a template; in a script, only if it is set by name.
    r"(?i)(?:^|[\s\"'/])on[a-z]+\s*=\s*[\"'{]": "listen for the event in a module",
    r"(?i)setAttribute\(\s*[\"'`]on": "listen for the event in a module",
}
LINE_COMMENT = re.compile(r"^\s*(?://|/\*|\*).*$", re.MULTILINE)
TEMPLATE_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)

FILES = [
    *sorted((BASE_DIR / "static" / "js").rglob("*.js")),
    *sorted(file for file in (BASE_DIR / "templates").rglob("*") if file.is_file()),
]


def find_banned_code(text: str) -> list[str]:
    """Yield banned code in a text with its line number and the alternative."""
    # Blanked instead of removed, to keep line numbers.
    for comment in (TEMPLATE_COMMENT, LINE_COMMENT):
        text = comment.sub(lambda found: re.sub("[^\n]", " ", found[0]), text)
    return [
        f"line {text.count(chr(10), 0, found.start()) + 1}: "
        f"{found[0].strip()!r}: {instead}"
        for pattern, instead in BANNED.items()
        for found in re.finditer(pattern, text, re.MULTILINE)
    ]


@pytest.mark.parametrize(
    "file", FILES, ids=lambda file: file.relative_to(BASE_DIR).as_posix()
)
def test_own_files_create_no_html_or_code_from_strings(file: Path) -> None:
    assert find_banned_code(file.read_text(encoding="utf-8")) == []


def test_scripts_and_templates_are_both_checked() -> None:
    names = {file.relative_to(BASE_DIR).as_posix() for file in FILES}

    assert {"static/js/main.js", "templates/layout.html"} <= names
    assert not [name for name in names if "vendor" in name]


@pytest.mark.parametrize(
    "text",
    [
        "list.innerHTML = text;",
        "a\n.outerHTML += text",
        'list["innerHTML"] = text',
        'list.insertAdjacentHTML("beforeend", text);',
        "document.write(text)",
        "document . writeln(text)",
        "range.createContextualFragment(text)",
        'new DOMParser().parseFromString(text, "text/html")',
        "list.setHTMLUnsafe(text)",
        "frame.srcdoc = text",
        "eval(text)",
        "(0, eval)(text)",
        'new Function("return 1")()',
        'setTimeout("alert(1)", 5)',
        "setInterval( `alert(${text})`, 5)",
        'link.href = "javascript:alert(1)";',
        '<a href="JavaScript:alert(1)">x</a>',
        '<body onload="start()">',
        "<img src=x\n  ONERROR = 'x()'>",
        '<svg/onload="x()">',
        '<p onclick="{{ text }}">',
        "link.setAttribute('onclick', text)",
    ],
)
def test_banned_code_is_found(text: str) -> None:
    found = find_banned_code(f"const one = 1;\n{text}\n")

    assert found
    assert found[0].startswith(("line 2: ", "line 3: "))


@pytest.mark.parametrize(
    "text",
    [
        "// No innerHTML with data in it.",
        "{# tojson keeps eval( and onclick='' from running. #}",
        "list.textContent = text;",
        'button.addEventListener("click", onClick);',
        "box.onclick = keep;",
        "const once = true, { onClose = null } = options;",
        "setTimeout(() => show(text), 5);",
        "function evaluate(text) {}",
        '<meta name="description" content="{{ description }}">',
        '<p data-once="{{ text }}">',
    ],
)
def test_harmless_code_is_not_found(text: str) -> None:
    assert find_banned_code(text) == []
