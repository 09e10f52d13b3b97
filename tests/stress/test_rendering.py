"""CPU time for texts that take long to render."""

import time

import pytest

from rendering import render_markdown, render_plain, text_without_markup
from tests.hostile_markup import SLOW, find_violations


@pytest.mark.parametrize("content", SLOW, ids=lambda text: ascii(text[:9]))
def test_cpu_time(content):
    start = time.thread_time()
    html = render_markdown(content)
    markdown_time = time.thread_time() - start
    render_plain(content)
    plain_time = time.thread_time() - start - markdown_time
    text_without_markup(content, "markdown")
    summary_time = time.thread_time() - start - markdown_time - plain_time

    assert find_violations(html) == []
    # Parsing takes at most 1 second, and the rest is proportional to the length.
    assert markdown_time < 3
    assert plain_time < 0.5
    assert summary_time < 0.2
