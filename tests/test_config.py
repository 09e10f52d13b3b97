"""Settings: values, validation, and documentation."""

import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

import config
from config import (
    BASE_DIR,
    RENAMED_SETTINGS,
    ConfigurationError,
    Settings,
    load_or_create_secret_key,
    load_settings,
    renamed_settings,
)
from tests.conftest import VAR_DIR
from tests.databases import PREFIX

KEY = "k" * 32
DATABASE = "postgresql+asyncpg://ada:database-password@127.0.0.1:1/blog"
NAMES = {name.upper() for name in Settings.model_fields}


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unset all variables except the data directory."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAR_DIR", str(tmp_path))


def set_all(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Set environment variables."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


# Every run


def test_tests_never_use_development_data() -> None:
    url = config.settings.database_url

    assert config.settings.var_dir == VAR_DIR
    assert url is not None
    assert (make_url(url.get_secret_value()).database or "").startswith(PREFIX)


# Values


@pytest.mark.parametrize(
    ("name", "value"),
    # From the specification.
    [
        ("database_url", None),
        ("secret_key", None),
        ("algorithm", "HS256"),
        ("access_token_expire_minutes", 30),
        ("s3_bucket_name", None),
        ("s3_region", "us-east-1"),
        ("s3_endpoint_url", None),
        ("mail_server", None),
        ("mail_port", 587),
        ("mail_use_tls", False),
        ("frontend_url", None),
        ("posts_per_page", 10),
        ("max_upload_size_bytes", 5_242_880),
        ("reset_token_expire_minutes", 60),
        ("site_url", "http://127.0.0.1:8000"),
        ("is_production", False),
        ("proxy_hops", 0),
    ],
)
def test_setting_has_default(name: str, value: Any) -> None:
    assert getattr(Settings(), name) == value


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8102"), ("::1", "http://[::1]:8102")],
)
def test_site_url_follows_development_server(host: str, url: str) -> None:
    settings = Settings()

    settings.set_server_url(host, 8102)

    assert settings.site_url == url


def test_frontend_url_overrides_development_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRONTEND_URL", "https://blog.example.com")
    settings = Settings()

    settings.set_server_url("127.0.0.1", 8102)

    assert settings.site_url == "https://blog.example.com"


def test_empty_variable_means_default(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, dict.fromkeys(NAMES - {"VAR_DIR"}, ""))
    empty = Settings()
    monkeypatch.undo()

    assert empty.model_dump(exclude={"var_dir"}) == {
        name: field.default
        for name, field in Settings.model_fields.items()
        if name != "var_dir"
    }


def test_variable_overrides_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text("POSTS_PER_PAGE=20\nMAIL_PORT=25\nNOT_OURS=1\n")
    monkeypatch.setenv("POSTS_PER_PAGE", "30")

    settings = Settings(_env_file=file)

    assert (settings.posts_per_page, settings.mail_port) == (30, 25)


@pytest.mark.parametrize(
    ("given", "dsn"),
    [
        (DATABASE, "postgresql://ada:database-password@127.0.0.1:1/blog"),
        ("postgresql://ada@db/blog", "postgresql://ada@db/blog"),
        ("postgres://ada@db/blog", "postgresql://ada@db/blog"),
        (
            "postgresql+asyncpg://ada:p%40ss%2Fword@db/blog",
            "postgresql://ada:p%40ss%2Fword@db/blog",
        ),
        (
            "postgresql+asyncpg://ada@db/blog?ssl=require",
            "postgresql://ada@db/blog?sslmode=require",
        ),
        (
            "postgresql://ada@db/blog?sslmode=verify-full",
            "postgresql://ada@db/blog?sslmode=verify-full",
        ),
    ],
)
def test_database_url_is_normalized(
    monkeypatch: pytest.MonkeyPatch, given: str, dsn: str
) -> None:
    set_all(monkeypatch, {"DATABASE_URL": given, "SECRET_KEY": KEY})

    assert Settings().database_dsn == dsn


@pytest.mark.parametrize("name", ["FRONTEND_URL", "S3_ENDPOINT_URL", "S3_PUBLIC_URL"])
def test_trailing_slash_of_url_is_removed(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "https://blog.example/base/")

    assert getattr(Settings(), name.lower()) == "https://blog.example/base"


@pytest.mark.parametrize(
    ("hops", "database", "trusted"),
    [("", "", 0), ("", DATABASE, 1), ("0", DATABASE, 0), ("2", "", 2)],
)
def test_proxies_are_trusted_in_production_or_if_set(
    monkeypatch: pytest.MonkeyPatch, hops: str, database: str, trusted: int
) -> None:
    set_all(
        monkeypatch,
        {"TRUSTED_PROXY_HOPS": hops, "DATABASE_URL": database, "SECRET_KEY": KEY},
    )

    assert Settings().proxy_hops == trusted


def test_repr_hides_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "DATABASE_URL": DATABASE,
        "SECRET_KEY": "secret-key-that-nobody-may-ever-see",
        "S3_ACCESS_KEY_ID": "secret-key-id",
        "S3_SECRET_ACCESS_KEY": "secret-access-key",
        "MAIL_PASSWORD": "mail-password",
    }
    set_all(monkeypatch, secrets)

    settings = Settings()

    shown = f"{settings!r} {settings} {settings.model_dump()}"
    assert [text for text in secrets.values() if text in shown] == []
    assert "database-password" not in shown


# Local secret key


def test_local_key_is_created_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "var" / "secret_key"

    key = load_or_create_secret_key(path)

    assert load_or_create_secret_key(path) == key
    assert len(key.encode()) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_local_keys_differ_between_installations(tmp_path: Path) -> None:
    assert load_or_create_secret_key(tmp_path / "a") != load_or_create_secret_key(
        tmp_path / "b"
    )


def test_concurrent_processes_share_local_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = set(
            threads.map(load_or_create_secret_key, [tmp_path / "secret_key"] * 40)
        )

    assert len(keys) == 1


def test_configured_key_creates_no_local_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECRET_KEY", KEY)

    assert Settings().signing_key == KEY
    assert list(tmp_path.iterdir()) == []


# Validation


REFUSED = [
    ({"DATABASE_URL": DATABASE}, "SECRET_KEY"),
    ({"DATABASE_URL": DATABASE, "SECRET_KEY": "too-short"}, "SECRET_KEY"),
    ({"SECRET_KEY": "k" * 31}, "SECRET_KEY"),
    ({"SECRET_KEY": "k" * 63, "ALGORITHM": "HS512"}, "SECRET_KEY"),
    ({"DATABASE_URL": "sqlite:///blog.db"}, "DATABASE_URL"),
    ({"DATABASE_URL": "mysql://ada:database-password@db/blog"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgresql+psycopg2://ada@db/blog"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgresql://ada:database-password@db"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgresql://a:database-password@db:x/b"}, "DATABASE_URL"),
    ({"DATABASE_URL": "nonsense"}, "DATABASE_URL"),
    ({"REDIS_URL": "http://:redis-password@cache:6379/0"}, "REDIS_URL"),
    ({"REDIS_URL": "redis://:redis-password@cache:x/0"}, "REDIS_URL"),
    ({"REDIS_URL": "redis-password"}, "REDIS_URL"),
    ({"ALGORITHM": "none"}, "ALGORITHM"),
    ({"ALGORITHM": "RS256"}, "ALGORITHM"),
    ({"ACCESS_TOKEN_EXPIRE_MINUTES": "0"}, "ACCESS_TOKEN_EXPIRE_MINUTES"),
    ({"RESET_TOKEN_EXPIRE_MINUTES": "-1"}, "RESET_TOKEN_EXPIRE_MINUTES"),
    ({"POSTS_PER_PAGE": "0"}, "POSTS_PER_PAGE"),
    ({"POSTS_PER_PAGE": "101"}, "POSTS_PER_PAGE"),
    ({"POSTS_PER_PAGE": "ten"}, "POSTS_PER_PAGE"),
    ({"MAX_UPLOAD_SIZE_BYTES": "5MB"}, "MAX_UPLOAD_SIZE_BYTES"),
    ({"MAIL_PORT": "65536"}, "MAIL_PORT"),
    ({"MAIL_USE_TLS": "perhaps"}, "MAIL_USE_TLS"),
    ({"FRONTEND_URL": "blog.example"}, "FRONTEND_URL"),
    ({"FRONTEND_URL": "ftp://blog.example"}, "FRONTEND_URL"),
    ({"FRONTEND_URL": "https://"}, "FRONTEND_URL"),
    ({"FRONTEND_URL": "https://blog.example/?a=b"}, "FRONTEND_URL"),
    ({"FRONTEND_URL": "https://ada:redis-password@blog.example"}, "FRONTEND_URL"),
    ({"FRONTEND_URL": "https://[::1"}, "FRONTEND_URL"),
    ({"FRONTEND_URL": "https://blog.example:443x"}, "FRONTEND_URL"),
    ({"FRONTEND_URL": "https://blog.example:65536"}, "FRONTEND_URL"),
    ({"FRONTEND_URL": "https://my blog.example"}, "FRONTEND_URL"),
    ({"S3_ENDPOINT_URL": "minio:9000"}, "S3_ENDPOINT_URL"),
    ({"S3_PUBLIC_URL": "//cdn.example"}, "S3_PUBLIC_URL"),
    ({"S3_ACCESS_KEY_ID": "secret-key-id"}, "S3_ACCESS_KEY_ID"),
    ({"S3_SECRET_ACCESS_KEY": "secret-access-key"}, "S3_ACCESS_KEY_ID"),
    ({"RATE_LIMIT_DEFAULT": "often"}, "RATE_LIMIT_DEFAULT"),
    ({"RATE_LIMIT_DEFAULT": "0/minute"}, "RATE_LIMIT_DEFAULT"),
    ({"RATE_LIMIT_CONCURRENT_REQUESTS": "0"}, "RATE_LIMIT_CONCURRENT_REQUESTS"),
    ({"ALLOWED_HOSTS": "blog.example.com/path"}, "ALLOWED_HOSTS"),
    ({"CORS_ORIGINS": "https://blog.example.com/path"}, "CORS_ORIGINS"),
    ({"RATE_LIMIT_ENABLED": "sometimes"}, "RATE_LIMIT_ENABLED"),
    ({"TRUSTED_PROXY_HOPS": "-1"}, "TRUSTED_PROXY_HOPS"),
]
SECRETS = re.compile(
    "database-password|redis-password|too-short|k{31}|secret-key-id|secret-access"
)


@pytest.mark.parametrize(("environment", "name"), REFUSED)
def test_invalid_setting_is_one_line_without_secrets(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str
) -> None:
    set_all(monkeypatch, environment)

    with pytest.raises(SystemExit) as raised:
        load_settings()

    line = str(raised.value)
    assert line.startswith(f"Configuration error: {name}: ")
    assert "\n" not in line
    assert not SECRETS.search(line)


def test_all_invalid_settings_are_reported_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_all(monkeypatch, {"MAIL_PORT": "x", "POSTS_PER_PAGE": "0"})

    with pytest.raises(SystemExit, match=r"MAIL_PORT: .*; POSTS_PER_PAGE: "):
        load_settings()


def test_missing_key_error_explains_how_to_create_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", DATABASE)

    with pytest.raises(SystemExit, match=r"secrets\.token_urlsafe\(64\)"):
        load_settings()


def test_production_requires_site_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_all(monkeypatch, {"DATABASE_URL": DATABASE, "SECRET_KEY": KEY})

    with pytest.raises(ConfigurationError, match="FRONTEND_URL: is missing"):
        Settings().check_production_settings()


def test_single_machine_needs_no_settings() -> None:
    Settings().check_production_settings()


# Validation, as an operator sees it


def run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in the project directory with only these variables set."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=BASE_DIR,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [("-c", "import main"), ("-m", "uvicorn", "main:app"), ("-m", "alembic", "check")],
    ids=["import", "uvicorn", "alembic"],
)
def test_command_reports_missing_setting_in_one_line(command: tuple[str, ...]) -> None:
    result = run(*command, DATABASE_URL=DATABASE)

    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("Configuration error: SECRET_KEY: is missing")
    assert "database-password" not in result.stdout + result.stderr


def test_server_reports_missing_and_renamed_settings() -> None:
    result = run(
        "-m",
        "uvicorn",
        "main:app",
        "--port",
        "0",
        DATABASE_URL=DATABASE,
        SECRET_KEY=KEY,
        SIGN_UP_RATE="1/day",
    )

    assert result.returncode != 0
    assert result.stderr.count("FRONTEND_URL: is missing") == 1
    assert result.stderr.count("SIGN_UP_RATE is no longer used") == 1
    assert "Traceback" not in result.stderr


def test_import_needs_only_specified_variables() -> None:
    result = run(
        "-W",
        "error",
        "-c",
        "import main",
        DATABASE_URL="postgresql+asyncpg://bloguser:blogpass@localhost:5433/test_blog_db",
        SECRET_KEY="test-secret-key-for-testing-only",
        S3_BUCKET_NAME="test-bucket",
        S3_ACCESS_KEY_ID="testing",
        S3_SECRET_ACCESS_KEY="testing",
        S3_REGION="us-east-2",
    )

    assert (result.returncode, result.stderr) == (0, "")


class TestRenamedSettings:
    def test_old_name_is_reported_with_new_one(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(config, "ENV_FILE", tmp_path / ".env")
        (tmp_path / ".env").write_text("post_rate=1/day\nUPLOAD_RATE=\n")
        set_all(monkeypatch, {"SIGN_UP_RATE": "1/day", "PICTURE_DECODERS": "2"})

        assert renamed_settings() == [
            "SIGN_UP_RATE is no longer used: set RATE_LIMIT_SIGN_UP_PER_IP instead",
            "POST_RATE is no longer used: set RATE_LIMIT_POSTS_PER_USER instead",
            "PICTURE_DECODERS is no longer used",
        ]

    def test_only_new_names_are_settings(self) -> None:
        old, new = set(RENAMED_SETTINGS), {*filter(None, RENAMED_SETTINGS.values())}

        assert new <= NAMES
        assert not old & NAMES

    def test_changelog_lists_all(self) -> None:
        table = (BASE_DIR / "CHANGELOG.md").read_text()

        for old, new in RENAMED_SETTINGS.items():
            assert f"| `{old}` | {f'`{new}`' if new else '(removed)'} |" in table


# Documentation


EXAMPLE = (BASE_DIR / ".env.example").read_text()
README = (BASE_DIR / "README.md").read_text()


def documented(value: Any) -> str:
    """Return a default as the documentation writes it."""
    if isinstance(value, Path):
        return str(value.relative_to(BASE_DIR))
    return "" if value is None or value == () else str(value).lower()


DEFAULTS = {
    name.upper(): documented(field.default)
    for name, field in Settings.model_fields.items()
}


def test_env_example_lists_exactly_all_settings() -> None:
    names = re.findall(r"^([A-Z][A-Z0-9_]*)=", EXAMPLE, re.MULTILINE)

    assert sorted(names) == sorted(NAMES)


def test_env_example_changes_nothing_as_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAR_DIR")

    copied = Settings(_env_file=BASE_DIR / ".env.example")

    assert copied == Settings(_env_file=None)


def test_readme_has_every_setting_with_its_default() -> None:
    rows = re.findall(
        r"^\| `([A-Z][A-Z0-9_]+)` \| *`?([^|`]*)`? *\|", README, re.MULTILINE
    )

    assert {name: default.strip().lower() for name, default in rows} == DEFAULTS


def test_every_setting_has_a_description() -> None:
    silent = [
        name for name, field in Settings.model_fields.items() if not field.description
    ]

    assert silent == []


@pytest.mark.parametrize(
    "name",
    [
        "database_url",
        "secret_key",
        "s3_access_key_id",
        "s3_secret_access_key",
        "mail_password",
    ],
)
def test_secrets_have_secret_type(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    set_all(
        monkeypatch,
        {
            "DATABASE_URL": DATABASE,
            "SECRET_KEY": KEY,
            "S3_ACCESS_KEY_ID": "a",
            "S3_SECRET_ACCESS_KEY": "b",
            "MAIL_PASSWORD": "c",
        },
    )

    assert isinstance(getattr(Settings(), name), SecretStr)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MAIL_FROM", "a b c <", "MAIL_FROM: must be one email address"),
        ("MAIL_FROM", "a@example.com, b@example.com", "MAIL_FROM: must be one email"),
        ("MAIL_FROM", "Blog", "MAIL_FROM: must be one email address"),
        ("ARGON2_MEMORY_COST", "8", "ARGON2_MEMORY_COST: must be at least 8 times"),
    ],
)
def test_setting_that_fails_later_is_rejected_at_startup(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit, match=message) as raised:
        load_settings()

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("sender", ["a@example.com", "My Blog <a@example.com>"])
def test_sender_may_have_a_name(monkeypatch: pytest.MonkeyPatch, sender: str) -> None:
    monkeypatch.setenv("MAIL_FROM", sender)

    assert Settings().mail_from == sender
