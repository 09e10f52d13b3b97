"""A bar chart of the most important figures, as SVG."""

from collections.abc import Iterator
from html import escape

from benchmarks.cases import CONVENTIONAL_PATHS, DISTINCT, SMALL
from benchmarks.load import Load
from benchmarks.report import Machine, Results
from benchmarks.servers import (
    APP,
    APP_UNCACHED,
    CONVENTIONAL,
    DATABASE_CEILING,
    MEMORY_CEILING,
)

WIDTH = 760
LABEL_WIDTH = 170
BAR_WIDTH = 440
BAR_HEIGHT = 14
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .background { fill: #ffffff } .note { font-size: 11px } .heading { font-weight: 600 }
  .ceiling { fill: #8c959f } .app { fill: #0969da } .conventional { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .background { fill: #0d1117 }
    .ceiling { fill: #6e7681 } .app { fill: #4493f8 } .conventional { fill: #db6d28 }
  }
"""
CLASSES = {
    MEMORY_CEILING: "ceiling",
    DATABASE_CEILING: "ceiling",
    APP: "app",
    APP_UNCACHED: "app",
    CONVENTIONAL: "conventional",
}

Section = tuple[str, list[tuple[str, list[Load]]]]


def sections() -> list[Section]:
    """Return the headings of the chart, each with paths and the loads to compare."""
    cached = [
        (
            path,
            [Load(server, path, 16) for server in (MEMORY_CEILING, APP, CONVENTIONAL)],
        )
        for path in CONVENTIONAL_PATHS
    ]
    distinct = [
        (
            path,
            [
                Load(DATABASE_CEILING, "/{n}", 8, SMALL),
                Load(APP_UNCACHED, path, 8, largest),
                Load(CONVENTIONAL, path, 8, largest),
            ],
        )
        for path, largest, _ in DISTINCT
    ]
    return [
        ("The same URL, 16 connections: requests per second", cached),
        ("Distinct URLs, cache off, 8 connections: requests per second", distinct),
    ]


def chart(results: Results, machine: Machine) -> str:
    """Return an SVG image that adapts to light and dark themes."""
    lines = []
    y = 24
    for heading, rows in sections():
        lines.append(text(16, y, heading, "heading"))
        most = max(
            results[load].requests_per_second for _, loads in rows for load in loads
        )
        for path, loads in rows:
            lines.append(text(16, y + 22, path))
            for number, load in enumerate(loads):
                top = y + 10 + number * (BAR_HEIGHT + 2)
                lines += bar(load.server, results[load].requests_per_second, most, top)
            y += len(loads) * (BAR_HEIGHT + 2) + 12
        y += 36
    lines.append(text(16, y - 12, str(machine), "note"))
    return svg(lines, height=y)


def bar(server: str, value: float, most: float, top: int) -> Iterator[str]:
    width = max(1, round(BAR_WIDTH * value / most))
    yield (
        f'<rect x="{LABEL_WIDTH}" y="{top}" width="{width}" height="{BAR_HEIGHT}" '
        f'class="{CLASSES[server]}"/>'
    )
    label = f"{value:,.0f} {server}"
    yield text(LABEL_WIDTH + width + 6, top + BAR_HEIGHT - 3, label, "note")


def text(x: int, y: int, content: str, css_class: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{css_class}">{escape(content)}</text>'


def svg(lines: list[str], *, height: int) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img" aria-label="Benchmark">',
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" rx="6" class="background"/>',
            *lines,
            "</svg>\n",
        ]
    )
