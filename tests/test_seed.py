"""The seed command."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from config import BASE_DIR, settings
from tests.conftest import ADMIN_URL
from tests.databases import execute, scratch_database
from tools import seed


class Blog:
    """A migrated, empty database, and a folder for pictures."""

    def __init__(self, url: str, var_dir: Path) -> None:
        self.url = make_url(url)
        self.var_dir = var_dir
        self.environment = {
            **os.environ,
            "DATABASE_URL": url,
            "VAR_DIR": str(var_dir),
            "S3_BUCKET_NAME": "",
            "S3_ACCESS_KEY_ID": "",
            "S3_SECRET_ACCESS_KEY": "",
        }

    def run(
        self, *arguments: str, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a project command with additional environment variables."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=BASE_DIR,
            env={**self.environment, **variables},
            capture_output=True,
            check=False,
            text=True,
        )

    def query_value(self, query: str) -> object:
        """Return the single value that a query selects."""
        return asyncio.run(execute(self.url, query))[0][0]


@pytest.fixture(scope="module")
def blog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blog]:
    with scratch_database(ADMIN_URL) as url:
        blog = Blog(url, tmp_path_factory.mktemp("seed"))
        blog.run("-m", "alembic", "upgrade", "head")
        yield blog


@pytest.fixture(scope="module")
def output(blog: Blog) -> str:
    """Return the output of the seed command."""
    done = blog.run("-m", "tools.seed")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_progress_and_login_are_printed(output: str) -> None:
    assert f"Posts: {seed.POST_COUNT} of {seed.POST_COUNT}" in output
    assert "demo1@example.com" in output


def test_every_user_has_a_picture(blog: Blog, output: str) -> None:
    people = blog.query_value("SELECT count(*) FROM users WHERE image_file IS NOT NULL")
    pictures = list((blog.var_dir / "media" / "profile_pics").iterdir())

    assert people == len(pictures) == len(seed.PEOPLE)


def test_posts_have_very_different_lengths(blog: Blog, output: str) -> None:
    assert blog.query_value("SELECT count(*) FROM posts") == seed.POST_COUNT
    assert blog.query_value("SELECT max(length(content)) > 5000 FROM posts")
    assert blog.query_value("SELECT min(length(content)) < 150 FROM posts")


@pytest.mark.parametrize("condition", ["title = ''", "content LIKE '%ספר%'"])
def test_one_post_is_untitled_and_one_right_to_left(
    blog: Blog, output: str, condition: str
) -> None:
    assert blog.query_value(f"SELECT count(*) FROM posts WHERE {condition}") == 1


def test_second_run_adds_nothing(blog: Blog, output: str) -> None:
    done = blog.run("-m", "tools.seed")

    assert "nothing was added" in done.stdout
    assert blog.query_value("SELECT count(*) FROM posts") == seed.POST_COUNT


# Not a local host, and nothing listens there.
ELSEWHERE = "postgresql+asyncpg://u:p@127.0.0.2:1/blog"


def test_remote_database_is_rejected(blog: Blog) -> None:
    done = blog.run("-m", "tools.seed", DATABASE_URL=ELSEWHERE)

    assert done.stderr.startswith("The database isn't on this machine")
    assert done.returncode == 1


def test_force_allows_remote_database(blog: Blog) -> None:
    done = blog.run("-m", "tools.seed", "--force", DATABASE_URL=ELSEWHERE)

    assert done.stderr.startswith("Database unavailable")


@pytest.mark.parametrize(
    ("dsn", "local"),
    [
        (None, True),
        ("postgresql://u@localhost/blog", True),
        ("postgresql://u@127.0.0.1:5433/blog", True),
        ("postgresql://u@/blog?host=/run/postgresql", True),
        ("postgresql:///blog", True),
        ("postgresql://u@db.example.com/blog", False),
        ("postgresql://u@10.0.0.7/blog", False),
        ("postgresql://u@/blog?host=db.example.com", False),
    ],
)
def test_local_hosts_are_recognized(
    monkeypatch: pytest.MonkeyPatch, dsn: str | None, local: bool
) -> None:
    monkeypatch.setattr(type(settings), "database_dsn", dsn)

    assert seed.is_local() is local
