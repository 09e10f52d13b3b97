"""The command that adds demo content."""

import subprocess
from collections.abc import Iterator

import pytest

from config import settings
from tests.conftest import ADMIN_URL
from tests.databases import scratch_database
from tests.server import LiveServer
from tools import seed

# The seed command doesn't consider this host local, and nothing listens there.
ELSEWHERE = "postgresql+asyncpg://u:p@127.0.0.2:1/blog"


@pytest.fixture(scope="module")
def blog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server that isn't running, with an empty, migrated database."""
    with scratch_database(ADMIN_URL) as url:
        blog = LiveServer(tmp_path_factory.mktemp("seed"), database_url=url)
        blog.migrate()
        yield blog


@pytest.fixture(scope="module")
def output(blog: LiveServer) -> str:
    """Return the output of the seed command."""
    return blog.run("-m", "tools.seed").stdout


def test_output(output):
    assert f"Posts: {seed.POST_COUNT} of {seed.POST_COUNT}" in output
    assert "demo1@example.com" in output


def test_users_have_pictures(blog, output):
    pictures = (blog.var_dir / "media" / "profile_pics").iterdir()

    users = blog.sql("SELECT image_file FROM users")

    assert {user[0] for user in users} == {path.name for path in pictures}
    assert len(users) == len(seed.PEOPLE)


@pytest.mark.parametrize(
    ("condition", "count"),
    [("true", seed.POST_COUNT), ("title = ''", 1), ("content LIKE '%ספר%'", 1)],
)
def test_posts(blog, output, condition, count):
    assert len(blog.sql(f"SELECT id FROM posts WHERE {condition}")) == count


def test_second_run_adds_nothing(blog, output):
    again = blog.run("-m", "tools.seed")

    assert "nothing was added" in again.stdout
    assert len(blog.sql("SELECT id FROM posts")) == seed.POST_COUNT


@pytest.mark.parametrize(
    ("arguments", "error"),
    [([], "The database isn't on this machine"), (["--force"], "Database unavailable")],
)
def test_remote_database(blog, monkeypatch, arguments, error):
    monkeypatch.setitem(blog.environment, "DATABASE_URL", ELSEWHERE)

    with pytest.raises(subprocess.CalledProcessError) as raised:
        blog.run("-m", "tools.seed", *arguments)

    assert raised.value.stderr.startswith(error)


@pytest.mark.parametrize(
    ("dsn", "local"),
    [
        (None, True),
        ("postgresql://u@localhost/blog", True),
        ("postgresql://u@/blog?host=/run/postgresql", True),
        ("postgresql:///blog", True),
        ("postgresql://u@10.0.0.7/blog", False),
        ("postgresql://u@/blog?host=db.example.com", False),
    ],
)
def test_is_local(monkeypatch, dsn, local):
    monkeypatch.setattr(type(settings), "database_dsn", dsn)

    assert seed.is_local() is local
