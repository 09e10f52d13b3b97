"""The cases that are measured, and how fast they should be."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from benchmarks.load import Load
from benchmarks.servers import (
    APP,
    APP_LARGE,
    APP_UNCACHED,
    APP_WRITES,
    CONVENTIONAL,
    CONVENTIONAL_LARGE,
    DATABASE_CEILING,
    INSERT_CEILING,
    MEMORY_CEILING,
)

SMALL = 10_000
LARGE = 1_000_000
HALF = SMALL // 2
POSTS_PER_PAGE = 10

LIST = "/api/posts"
POST = f"/posts/{HALF}"
CONVENTIONAL_PATHS = (LIST, "/", POST)
CACHED_PATHS = (*CONVENTIONAL_PATHS, "/login", "/feed.atom")
DEEP_SKIP = 900_000
SEARCHES = {
    "Rain": "all posts",
    "repair+fence": "all posts, two words",
    "7777": "about 1,100 posts, by prefix",
    "f63f4fbc9f8c85d409f2f59f2b9e12d5": "one post",
}
"""Searches, and how many of the posts that `databases.INSERT_POSTS` inserts match."""
ENCODINGS = ("identity", "br")

# For each path, the maximum of n, and the target as a share of the database ceiling.
# Lists are only requested up to the middle of 10,000 posts. Farther back, the app would
# start at the other end, which is closer there than in a list of 1,000,000 posts.
DISTINCT = (
    ("/api/posts/{n}", SMALL, 0.30),
    ("/api/posts?skip={n}", HALF, 0.25),
    ("/posts/{n}", SMALL, 0.20),
    ("/?page={n}", HALF // POSTS_PER_PAGE, 0.15),
)


class Metric(Enum):
    """What a case compares, and whether a higher value is better."""

    SHARE = "at least this share of the other requests per second"
    TIMES = "at least this many times the other requests per second"
    MILLISECONDS = "at most this median latency"
    LATENCY_TIMES = "at most this many times the other median latency"


@dataclass(frozen=True)
class Case:
    """A measurement, usually compared with another one."""

    group: str
    label: str
    load: Load
    baseline: Load | None
    metric: Metric
    target: float | None = None
    """None if the ratio is reported without a target."""

    @property
    def loads(self) -> list[Load]:
        return [self.load] if self.baseline is None else [self.load, self.baseline]


@dataclass(frozen=True)
class Known:
    """Values that come from the app, and that the measured requests contain."""

    etag: str
    token: str
    cursor: str | None
    """Cursor of the page at `DEEP_SKIP`, or None without 1,000,000 posts."""


def all_cases(known: Known) -> list[Case]:
    cases = [*cached_cases(known.etag), *distinct_cases(), write_case(known.token)]
    if known.cursor is not None:
        cases += [*large_cases(), *deep_cases(known.cursor)]
    return cases


def cached_cases(etag: str) -> Iterator[Case]:
    group = "Cached, 16 connections"
    for path in CACHED_PATHS:
        for encoding in ENCODINGS:
            app = Load(APP, path, 16, encoding=encoding)
            ceiling = app.on(MEMORY_CEILING)
            label = f"{path} {encoding}"
            yield Case(group, label, app, ceiling, Metric.SHARE, 0.75)
            if path in CONVENTIONAL_PATHS:
                conventional = Load(CONVENTIONAL, path, 16)
                yield Case(group, label, app, conventional, Metric.TIMES, 30)
    found = Load(APP, LIST, 16)
    unchanged = replace(found, headers=(("If-None-Match", etag),), status=304)
    yield Case(group, f"{LIST} 304", unchanged, found, Metric.SHARE, 1)


def distinct_cases() -> Iterator[Case]:
    for path, largest, share in DISTINCT:
        few = Load(APP_UNCACHED, path, 8, largest)
        many = replace(few, connections=32)
        for app in (few, many):
            group = f"Distinct URLs, cache off, {app.connections} connections"
            ceiling = Load(DATABASE_CEILING, "/{n}", app.connections, SMALL)
            conventional = app.on(CONVENTIONAL)
            yield Case(group, path, app, ceiling, Metric.SHARE, share)
            yield Case(group, path, app, conventional, Metric.TIMES, 4)
        group = "Distinct URLs, cache off, 32 connections compared with 8"
        yield Case(group, path, many, few, Metric.SHARE, 0.95)
        group = "Distinct URLs, cache on compared with off, 8 connections"
        yield Case(group, path, few.on(APP), few, Metric.SHARE)


def write_case(token: str) -> Case:
    app = Load(
        APP_WRITES,
        LIST,
        16,
        method="POST",
        headers=(("Authorization", f"Bearer {token}"),),
        status=201,
    )
    inserts = replace(app, server=INSERT_CEILING, path="/", headers=())
    group = "New posts, 16 connections"
    return Case(group, f"POST {LIST}", app, inserts, Metric.SHARE, 0.35)


def large_cases() -> Iterator[Case]:
    for path, largest, _ in DISTINCT:
        small = Load(APP_UNCACHED, path, 8, largest)
        ids = LARGE if largest == SMALL else largest
        large = replace(small, server=APP_LARGE, largest=ids)
        group = "1,000,000 posts compared with 10,000, cache off, 8 connections"
        yield Case(group, path, large, small, Metric.SHARE, 0.85)
        group = "1,000,000 posts, cache off, 8 connections"
        conventional = large.on(CONVENTIONAL_LARGE)
        yield Case(group, path, large, conventional, Metric.TIMES)


def deep_cases(cursor: str) -> Iterator[Case]:
    group = "1,000,000 posts, median latency with one connection"
    first = Load(APP_LARGE, LIST, 1)
    for skip, target_ms in ((DEEP_SKIP, 100), (LARGE // 2, 150)):
        path = f"{LIST}?skip={skip}"
        deep = replace(first, path=path)
        yield Case(group, path, deep, None, Metric.MILLISECONDS, target_ms)
    for query, posts in SEARCHES.items():
        search = replace(first, path=f"{LIST}?q={query}")
        yield Case(group, f"search: {posts}", search, None, Metric.MILLISECONDS, 100)
    next_page = replace(first, path=f"{LIST}?cursor={cursor}")
    label = f"cursor after skip={DEEP_SKIP}"
    yield Case(group, label, next_page, first, Metric.LATENCY_TIMES, 1.3)
