"""Settings: values, validation, and documentation."""

import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from re import MULTILINE
from typing import Any

import pytest

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
from tests.server import clean_environment

KEY = "k" * 32
DATABASE = "postgresql+asyncpg://ada:database-password@127.0.0.1:1/blog"
PRODUCTION = {"DATABASE_URL": DATABASE, "SECRET_KEY": KEY}
NAMES = {name.upper() for name in Settings.model_fields}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unset all settings except the data directory."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAR_DIR", str(tmp_path))


def make_settings(**values: str) -> Settings:
    """Return settings that are validated like environment variables."""
    return Settings.model_validate({name.lower(): v for name, v in values.items()})


class TestSettings:
    @pytest.mark.parametrize(
        ("values", "hops"),
        [
            ({}, 0),
            (PRODUCTION, 1),
            (PRODUCTION | {"TRUSTED_PROXY_HOPS": "0"}, 0),
            ({"TRUSTED_PROXY_HOPS": "2"}, 2),
        ],
    )
    def test_proxy_hops(self, values, hops):
        assert make_settings(**values).proxy_hops == hops

    @pytest.mark.parametrize(
        ("host", "url"),
        [("127.0.0.1", "http://127.0.0.1:8102"), ("::1", "http://[::1]:8102")],
    )
    def test_site_url_of_development_server(self, host, url):
        settings = Settings()

        settings.set_server_url(host, 8102)

        assert settings.site_url == url

    def test_frontend_url(self):
        settings = make_settings(FRONTEND_URL="https://blog.example/base/")

        settings.set_server_url("127.0.0.1", 8102)

        assert settings.site_url == "https://blog.example/base"

    @pytest.mark.parametrize(
        ("given", "sender"),
        [
            ("Blog <a@bücher.example>", "Blog <a@xn--bcher-kva.example>"),
            ("Ada L. <a@blog.example>", '"Ada L." <a@blog.example>'),
        ],
    )
    def test_sender_is_encoded(self, given, sender):
        assert make_settings(MAIL_FROM=given).mail_from == sender

    def test_empty_variable_means_default(self, monkeypatch):
        monkeypatch.setenv("POSTS_PER_PAGE", "")
        monkeypatch.setenv("DATABASE_URL", "")

        assert Settings() == Settings(_env_file=None)

    def test_variable_overrides_env_file(self, monkeypatch, tmp_path):
        file = tmp_path / ".env"
        file.write_text("POSTS_PER_PAGE=20\nMAIL_PORT=25\nNOT_OURS=1\n")
        monkeypatch.setenv("POSTS_PER_PAGE", "30")

        settings = Settings(_env_file=file)

        assert (settings.posts_per_page, settings.mail_port) == (30, 25)

    @pytest.mark.parametrize(
        ("url", "dsn"),
        [
            ("postgresql+asyncpg://ada:p%40@db/b", "postgresql://ada:p%40@db/b"),
            ("postgres://ada@db/b", "postgresql://ada@db/b"),
            ("postgresql://db/b?ssl=require", "postgresql://db/b?sslmode=require"),
            ("postgresql://db/b?ssl=true", "postgresql://db/b?sslmode=require"),
            ("postgresql://db/b?channel_binding=require", "postgresql://db/b"),
        ],
    )
    def test_database_dsn(self, url, dsn):
        assert make_settings(DATABASE_URL=url, SECRET_KEY=KEY).database_dsn == dsn

    @pytest.mark.parametrize(
        ("pooled", "dsn"),
        [
            ({}, "postgresql://ada:p%40@pooler/b"),
            ({"DATABASE_POOL_MODE": "transaction"}, None),
            (
                {"DATABASE_DIRECT_URL": "postgres://ada@db/b"},
                "postgresql://ada:p%40@db/b",
            ),
        ],
        ids=["no pooler", "no direct URL", "direct URL"],
    )
    def test_direct_database_dsn(self, pooled, dsn):
        settings = make_settings(
            DATABASE_URL="postgres://ada@pooler/b",
            DATABASE_PASSWORD="p@",
            SECRET_KEY=KEY,
            **pooled,
        )

        assert settings.direct_database_dsn == dsn

    def test_secrets_are_hidden(self):
        names = ["SECRET_KEY", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"]
        values = dict.fromkeys([*names, "MAIL_PASSWORD"], "marked-" + KEY)
        values["REDIS_URL"] = "redis://:marked@cache:6379/0"
        values["DATABASE_URL"] = "postgresql://ada:marked@db/blog"

        settings = make_settings(**values)

        assert "marked" not in f"{settings!r} {settings} {settings.model_dump()}"


class TestSecretKey:
    def test_is_created_once_and_private(self, tmp_path):
        path = tmp_path / "var" / "secret_key"

        key = load_or_create_secret_key(path)

        assert load_or_create_secret_key(path) == key
        assert len(key.encode()) >= 64
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(path.parent.iterdir()) == [path]

    def test_simultaneous_starts(self, tmp_path):
        with ThreadPoolExecutor(8) as threads:
            keys = threads.map(load_or_create_secret_key, [tmp_path / "key"] * 40)

        assert len(set(keys)) == 1

    def test_configured_key_creates_no_file(self, tmp_path):
        assert make_settings(SECRET_KEY=KEY).signing_key == KEY
        assert list(tmp_path.iterdir()) == []


INVALID = [
    ({"DATABASE_URL": DATABASE}, "SECRET_KEY is missing; create one with: python "),
    ({"SECRET_KEY": "k" * 31}, "SECRET_KEY has fewer than 32 bytes"),
    ({"SECRET_KEY_PREVIOUS": f"{KEY},k"}, "SECRET_KEY_PREVIOUS has fewer than 32"),
    ({"SECRET_KEY": "k" * 63, "ALGORITHM": "HS512"}, "SECRET_KEY has fewer than 64"),
    ({"DATABASE_URL": "mysql://ada:database-password@db/blog"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgresql://ada:database-password@db"}, "DATABASE_URL"),
    ({"DATABASE_URL": "database-password"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgres://db/b?sslmode=on"}, "DATABASE_URL: sslmode must be"),
    ({"DATABASE_URL": "postgres://db/b?ca=x"}, "DATABASE_URL: unknown parameter ca"),
    ({"REDIS_URL": "http://:redis-password@cache:6379/0"}, "REDIS_URL"),
    ({"ALGORITHM": "none"}, "ALGORITHM"),
    ({"ACCESS_TOKEN_EXPIRE_MINUTES": "0"}, "ACCESS_TOKEN_EXPIRE_MINUTES"),
    ({"MAIL_PORT": "65536"}, "MAIL_PORT"),
    ({"SITE_NAME": "My\nblog"}, "SITE_NAME"),
    ({"SITE_NAME": " "}, "SITE_NAME"),
    ({"SITE_NAME": "My\u2028blog"}, "SITE_NAME"),
    ({"CONTACT_EMAIL": "Ada"}, "CONTACT_EMAIL"),
    ({"SESSION_MAX_DAYS": "-1"}, "SESSION_MAX_DAYS"),
    ({"MAIL_FROM": "a@example.com, b@example.com"}, "MAIL_FROM: must be one email"),
    ({"MAIL_FROM": "Blog"}, "MAIL_FROM: must be one email address"),
    ({"MAIL_FROM": "noreply@\u2800.example"}, "MAIL_FROM"),
    ({"MAIL_FROM": "Ada @ Home <noreply@blog.example>"}, "MAIL_FROM: must be one"),
    ({"MAIL_FROM": "Ada: a blog <noreply@blog.example>"}, "MAIL_FROM: must be one"),
    ({"ARGON2_MEMORY_COST": "31"}, "ARGON2_MEMORY_COST: must be at least 8 times"),
    ({"FRONTEND_URL": "ftp://blog.example"}, "FRONTEND_URL"),
    ({"FRONTEND_URL": "https://blog.example/?a=b"}, "FRONTEND_URL"),
    ({"FRONTEND_URL": "https://ada:redis-password@blog.example"}, "FRONTEND_URL"),
    ({"S3_ENDPOINT_URL": "minio:9000"}, "S3_ENDPOINT_URL"),
    ({"S3_ACCESS_KEY_ID": "secret-key-id"}, "S3_ACCESS_KEY_ID"),
    ({"S3_SECRET_ACCESS_KEY": "secret-access-key"}, "S3_ACCESS_KEY_ID"),
    ({"RATE_LIMIT_DEFAULT": "often"}, "RATE_LIMIT_DEFAULT"),
    ({"RATE_LIMIT_DEFAULT": "0/minute"}, "RATE_LIMIT_DEFAULT"),
    ({"ALLOWED_HOSTS": "blog.example.com/path"}, "ALLOWED_HOSTS"),
    ({"CORS_ORIGINS": "https://blog.example.com/path"}, "CORS_ORIGINS"),
    ({"MAIL_PORT": "x", "POSTS_PER_PAGE": "0"}, "MAIL_PORT: .*; POSTS_PER_PAGE: "),
]
SECRETS = re.compile("database-pass|redis-pass|kkk|secret-key-id|secret-access")


class TestInvalidSettings:
    @pytest.mark.parametrize(("environment", "message"), INVALID)
    def test_error_is_one_line_without_secrets(
        self, monkeypatch, capsys, environment, message
    ):
        monkeypatch.setattr("os.environ", environment)

        with pytest.raises(SystemExit, match="3"):
            load_settings()

        line = capsys.readouterr().err
        assert re.match(f"Configuration error: {message}", line)
        assert line.count("\n") == 1
        assert not SECRETS.search(line)

    def test_production_requires_frontend_url(self):
        Settings().check_production_settings()

        with pytest.raises(ConfigurationError, match="FRONTEND_URL is missing"):
            make_settings(**PRODUCTION).check_production_settings()


def run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a Python command with only these settings."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=BASE_DIR,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
    )


class TestCommands:
    def test_server_reports_missing_and_renamed_settings(self):
        server = ("-m", "uvicorn", "main:app", "--port", "0")

        result = run(*server, **PRODUCTION, SIGN_UP_RATE="1/day")

        assert result.returncode != 0
        assert result.stderr.count("FRONTEND_URL is missing") == 1
        assert result.stderr.count("SIGN_UP_RATE is no longer used") == 1
        assert "Traceback" not in result.stderr

    def test_import_needs_only_specified_variables(self):
        result = run(
            *("-W", "error", "-c", "import main"),
            DATABASE_URL="postgresql+asyncpg://bloguser:blogpass@localhost:5433/test",
            SECRET_KEY="test-secret-key-for-testing-only",
            S3_BUCKET_NAME="test-bucket",
            S3_ACCESS_KEY_ID="testing",
            S3_SECRET_ACCESS_KEY="testing",
            S3_REGION="us-east-2",
        )

        assert (result.returncode, result.stderr) == (0, "")


class TestRenamedSettings:
    def test_old_name_is_reported(self, monkeypatch, tmp_path):
        monkeypatch.setattr(config, "ENV_FILE", tmp_path / ".env")
        (tmp_path / ".env").write_text("post_rate=1/day\nUPLOAD_RATE=\n")
        monkeypatch.setenv("SIGN_UP_RATE", "1/day")
        monkeypatch.setenv("PICTURE_DECODERS", "2")

        assert renamed_settings() == [
            "SIGN_UP_RATE is no longer used: set RATE_LIMIT_SIGN_UP_PER_IP instead",
            "POST_RATE is no longer used: set RATE_LIMIT_POSTS_PER_USER instead",
            "PICTURE_DECODERS is no longer used",
        ]

    def test_only_new_names_are_settings(self):
        assert set(RENAMED_SETTINGS.values()) - {None} <= NAMES
        assert not set(RENAMED_SETTINGS) & NAMES

    def test_changelog_lists_all(self):
        changelog = (BASE_DIR / "CHANGELOG.md").read_text()

        rows = re.findall(r"\| `(\w+)` \| `?(\w+|\(removed\))`? \|", changelog)

        assert dict(rows) == {
            old: new or "(removed)" for old, new in RENAMED_SETTINGS.items()
        }


def documented(value: Any) -> str:
    """Return a default value in the form that README.md uses."""
    if isinstance(value, Path):
        return str(value.relative_to(BASE_DIR))
    return "" if value is None or value == () else str(value).lower()


class TestDocumentation:
    def test_env_example_lists_all_settings(self):
        example = (BASE_DIR / ".env.example").read_text()

        names = re.findall(r"^([A-Z][A-Z0-9_]*)=", example, MULTILINE)

        assert sorted(names) == sorted(NAMES)

    def test_env_example_changes_nothing(self, monkeypatch):
        monkeypatch.delenv("VAR_DIR")

        settings = Settings(_env_file=BASE_DIR / ".env.example")

        assert settings == Settings(_env_file=None)

    def test_readme_has_all_defaults(self):
        readme = (BASE_DIR / "README.md").read_text()

        rows = re.findall(r"^\| `([A-Z]\w+)` \| *`?([^|`]*)`? *\|", readme, MULTILINE)

        assert {name: default.strip().lower() for name, default in rows} == {
            name.upper(): documented(field.default)
            for name, field in Settings.model_fields.items()
        }

    def test_settings_have_descriptions(self):
        assert all(field.description for field in Settings.model_fields.values())
