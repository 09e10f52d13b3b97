"""Log lines of requests and outages, and their formats."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from config import settings
from database_state import migrations
from logs import (
    JSONFormatter,
    Outage,
    TextFormatter,
    production_warnings,
    request_id,
    startup_summary,
)
from tests.conftest import ADMIN_URL, Json
from tests.databases import scratch_database
from tests.server import LiveServer

HEAD = migrations().get_current_head()


@pytest.fixture
def record() -> logging.LogRecord:
    """Return the record of an error."""
    info = (ValueError, ValueError("two\nlines"), None)
    return logging.LogRecord("blog", logging.ERROR, "", 0, "No %s", ("luck",), info)


class TestFormat:
    def test_json(self, record):
        token = request_id.set("id-1")

        line = JSONFormatter().format(record)

        request_id.reset(token)
        fields = json.loads(line)
        assert "\n" not in line
        assert (fields["level"], fields["message"]) == ("ERROR", "No luck")
        assert (fields["logger"], fields["request_id"]) == ("blog", "id-1")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*\+00:00", fields["time"])
        assert fields["traceback"].endswith("ValueError: two\nlines")

    def test_text(self, record):
        assert (
            TextFormatter().format(record).startswith("ERROR:    No luck\nValueError")
        )

    def test_production_logs_only_json(self, server_in_production):
        server_in_production.client.get("/posts/0?token=hunt3r")
        server_in_production.stop()

        log = server_in_production.log.read_text()
        messages = [json.loads(line)["message"] for line in log.splitlines()]
        assert "hunt3r" not in log
        assert "Application startup complete." in messages
        assert any(f"schema {HEAD}, database" in message for message in messages)
        assert any('127.0.0.1 "GET /posts/0" 404' in message for message in messages)


@pytest.fixture
def server_in_production(tmp_path: Path) -> Iterator[LiveServer]:
    with (
        scratch_database(ADMIN_URL) as url,
        LiveServer(tmp_path, database_url=url) as server,
    ):
        yield server


def request_fields(caplog: pytest.LogCaptureFixture) -> list[Json]:
    """Return the fields of the logged requests."""
    return [
        vars(record)["fields"]
        for record in caplog.records
        if record.name == "middleware.request_log"
    ]


@pytest.fixture
def info(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


class TestRequest:
    async def test_fields(self, client, post, info):
        info.clear()

        response = await client.get(f"/api/posts/{post['id']}?token=hunt3r")

        [fields] = request_fields(info)
        assert fields.pop("duration_ms") > 0
        assert fields == {
            "method": "GET",
            "route": "/api/posts/{post_id}",
            "path": f"/api/posts/{post['id']}",
            "status": 200,
            "bytes": len(response.content),
            "client_ip": "127.0.0.1",
        }

    @pytest.mark.parametrize("query", ["?token=x&next=/?y", "%3ftoken=x", "%3Ftoken=x"])
    async def test_query_is_omitted(self, client, info, query):
        await client.get(f"/reset-password{query}")

        assert request_fields(info)[0]["path"] == "/reset-password"
        assert "token" not in info.messages[0]

    @pytest.mark.parametrize("path", ["/health", "/health/live"])
    async def test_health_checks_are_not_logged(self, client, info, path):
        await client.get(path)

        assert request_fields(info) == []

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_cached_response_has_its_route(
        self, concurrent_client, cache_on, info, method
    ):
        await concurrent_client.get("/login")
        info.clear()

        await concurrent_client.request(method, "/login")

        [fields] = request_fields(info)
        assert (fields["method"], fields["route"]) == (method, "/login")


class TestRequestId:
    async def test_well_formed_id_is_kept(self, client):
        response = await client.get("/login", headers={"X-Request-ID": "1-67a.b_c:d/e"})

        assert response.headers["x-request-id"] == "1-67a.b_c:d/e"

    @pytest.mark.parametrize("sent", ["", "two words", "é", "x" * 129])
    async def test_other_id_is_replaced(self, client, sent):
        header = {"X-Request-ID": sent.encode()}

        responses = [await client.get("/login", headers=header) for _ in range(2)]

        ids = {response.headers["x-request-id"] for response in responses}
        assert len(ids) == 2
        assert all(re.fullmatch("[0-9a-f]{16}", each) for each in ids)


def test_startup_summary(monkeypatch):
    url = SecretStr("postgresql://app:hunt3r@db.example.com/blog")
    monkeypatch.setattr(settings, "database_url", url)
    monkeypatch.setattr(settings, "s3_bucket_name", "pictures")
    monkeypatch.setattr(settings, "mail_server", "smtp.example.com")
    monkeypatch.setattr(settings, "redis_url", SecretStr("redis://:hunt3r@redis"))

    assert startup_summary() == (
        "database db.example.com:5432/blog, pictures bucket pictures, "
        f"emails smtp.example.com:{settings.mail_port}, rate limits Redis, "
        f"trusted proxy hops {settings.proxy_hops}"
    )


class TestProductionWarnings:
    @pytest.fixture(autouse=True)
    def unsuitable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Change all settings to values that are unsuitable for production."""
        for name in ("mail_server", "s3_bucket_name", "redis_url"):
            monkeypatch.setattr(settings, name, None)
        monkeypatch.setattr(settings, "mail_from", "Blog <blog@localhost>")
        monkeypatch.setattr(settings, "database_pool_mode", "transaction")
        monkeypatch.setenv("WEB_CONCURRENCY", "2")

    def test_production(self):
        names = [warning.split()[0] for warning in production_warnings()]

        assert names == [
            *("MAIL_SERVER", "S3_BUCKET_NAME", "MAIL_FROM", "REDIS_URL"),
            "DATABASE_DIRECT_URL",
        ]

    def test_suitable_settings(self, monkeypatch):
        monkeypatch.setattr(settings, "mail_server", "smtp.example.com")
        monkeypatch.setattr(settings, "s3_bucket_name", "pictures")
        monkeypatch.setattr(settings, "mail_from", "blog@example.com")
        monkeypatch.setattr(settings, "database_pool_mode", "session")
        monkeypatch.setenv("WEB_CONCURRENCY", "1")

        assert production_warnings() == []

    def test_development(self, monkeypatch):
        monkeypatch.setattr(settings, "database_url", None)

        assert production_warnings() == []


class TestOutage:
    @pytest.fixture
    def clock(self, monkeypatch):
        """Return a list whose only element is the current time."""
        now = [0.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        return now

    def test_is_logged_once_a_minute(self, clock, info):
        outage = Outage("Database")
        for second in range(601):
            clock[0] = float(second)
            outage.report("connection refused")

        assert info.messages == ["Database unavailable: connection refused"] * 11

    def test_end_is_logged_once(self, clock, info):
        outage = Outage("Database")
        outage.end()
        outage.report("first")
        outage.end()
        outage.end()
        outage.report("second")

        assert info.messages == [
            "Database unavailable: first",
            "Database available again",
            "Database unavailable: second",
        ]
