"""Rate limits."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import redis
from fastapi import HTTPException
from httpx import AsyncClient, Response
from pydantic import SecretStr

import auth
import rate_limit
from config import Settings, settings
from executors import QueueFull
from rate_limit import LRUMemoryStorage, RateLimit, client_network
from tests.conftest import (
    PASSWORD,
    Headers,
    create_post,
    create_test_user,
    get_user_id,
    reset_rate_limits,
    sign_up,
    upload_picture,
)
from tests.databases import free_port

Server = subprocess.Popen[bytes]

EMAIL = "ada@example.com"
IP = "192.0.2.1"
LOW_LIMITS = {
    "rate_limit_enabled": True,
    "rate_limit_login_per_account_and_ip": "3/minute",
    "rate_limit_login_per_account": "8/hour",
    "rate_limit_login_per_ip": "5/minute",
    "rate_limit_sign_up_per_ip": "2/hour",
    "rate_limit_password_per_user": "3/hour",
    "rate_limit_uploads_per_user": "2/hour",
    "rate_limit_exports_per_user": "2/hour",
    "rate_limit_posts_per_user": "2/hour",
    "rate_limit_previews_per_user": "2/hour",
    "rate_limit_reset_per_ip": "3/hour",
    "rate_limit_emails_per_account": "2/day",
}


@pytest.fixture(autouse=True)
async def low_limits(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    for name, value in LOW_LIMITS.items():
        monkeypatch.setattr(settings, name, value)
    monkeypatch.setattr("routers.users.MAX_EMAIL_DELAY", 0)
    await reset_rate_limits()
    yield
    await reset_rate_limits()


@pytest.fixture
async def account(client: AsyncClient) -> None:
    await create_test_user(client, email=EMAIL)


@pytest.fixture
async def trusted(client: AsyncClient, account: None) -> None:
    """Log in, so that the client IP becomes trusted for this account."""
    await log_in(client)


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> AsyncMock:
    """Replace the function that sends reset emails."""
    send = AsyncMock()
    monkeypatch.setattr("routers.users.send_password_reset_email", send)
    return send


async def post(client: AsyncClient, path: str, ip: str, **options: Any) -> Response:
    headers = {"X-Forwarded-For": ip}
    return await client.post(f"/api/users/{path}", headers=headers, **options)


async def log_in(
    client: AsyncClient, password: str = PASSWORD, email: str = EMAIL, ip: str = IP
) -> Response:
    form = {"username": email, "password": password}
    return await post(client, "token", ip, data=form)


async def fail(
    client: AsyncClient, times: int, *, email: str = EMAIL, ip: str = IP
) -> list[int]:
    """Try to log in repeatedly with a wrong password, and return the statuses.

    The number of the attempt replaces `{}` in the email address and the client IP.
    """
    responses = [
        await log_in(client, "wrong", email.format(number), ip.format(number))
        for number in range(times)
    ]
    return [response.status_code for response in responses]


async def forget(client: AsyncClient, email: str = EMAIL, ip: str = IP) -> Response:
    return await post(client, "forgot-password", ip, json={"email": email})


async def reset(client: AsyncClient, token: str) -> Response:
    body = {"token": token, "new_password": "battery staple"}
    return await post(client, "reset-password", IP, json=body)


async def register(client: AsyncClient, name: str) -> Response:
    user = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    return await client.post("/api/users", json=user)


@pytest.mark.usefixtures("account")
class TestFailedLogins:
    async def test_error(self, client):
        await fail(client, 3)

        response = await log_in(client, email=" ADA@example.com ")

        error = {"detail": "Too many attempts. Please try again later."}
        assert (response.status_code, response.json()) == (429, error)
        assert 1 <= int(response.headers["Retry-After"]) <= 60

    @pytest.mark.parametrize(
        ("attack", "limit"),
        [
            ({}, 3),
            ({"email": "unknown@example.com"}, 3),
            ({"ip": "2001:db8::{}"}, 3),
            ({"ip": "198.51.100.{}"}, 8),
            ({"email": "user{}@example.com"}, 5),
        ],
        ids=["account and IP", "unknown account", "IPv6 network", "account", "IP"],
    )
    async def test_limit(self, client, attack, limit):
        statuses = await fail(client, limit + 1, **attack)

        assert statuses == [401] * limit + [429]

    async def test_rejected_login_is_not_counted(self, client):
        await fail(client, 8, ip="198.51.100.{}")

        rejected = await fail(client, 5)
        others = await fail(client, 5, email="user{}@example.com")

        assert (rejected, others) == ([429] * 5, [401] * 5)

    async def test_disabled(self, client, monkeypatch):
        connect = Mock()
        monkeypatch.setattr(rate_limit, "_redis", connect)
        monkeypatch.setattr(settings, "redis_url", SecretStr("redis://127.0.0.1:6379"))
        monkeypatch.setattr(settings, "rate_limit_enabled", False)

        statuses = await fail(client, 9)
        await log_in(client)

        assert statuses == [401] * 9
        connect.assert_not_called()


async def test_concurrent_guesses(concurrent_client, monkeypatch):
    verify = Mock(return_value=False)
    monkeypatch.setattr(auth, "verify_password", verify)

    responses = await asyncio.gather(
        *(log_in(concurrent_client, "wrong") for _ in range(50))
    )

    statuses = sorted(response.status_code for response in responses)
    assert statuses == [401] * 3 + [429] * 47
    assert verify.call_count == 3


@pytest.mark.usefixtures("account")
class TestSuccessfulLogins:
    async def test_not_counted(self, client):
        statuses = [(await log_in(client)).status_code for _ in range(12)]

        assert statuses == [200] * 12

    async def test_failures_stay_counted(self, client):
        await fail(client, 4, email="user{}@example.com")
        await log_in(client)

        statuses = await fail(client, 2, email="eve{}@example.com")

        assert statuses == [401, 429]

    async def test_unverified_password_is_not_counted(self, client, monkeypatch):
        with monkeypatch.context() as patch:
            full = AsyncMock(side_effect=QueueFull)
            patch.setattr("routers.login.verify_password_async", full)
            busy = await fail(client, 4)

        response = await log_in(client)

        assert (busy, response.status_code) == ([503] * 4, 200)


class TestTrustedClient:
    @pytest.mark.parametrize(
        "attack",
        [{"ip": "198.51.100.{}"}, {"email": "user{}@example.com"}],
        ids=["other clients", "other accounts"],
    )
    async def test_not_locked_out(self, client, trusted, attack):
        await fail(client, 10, **attack)

        response = await log_in(client)

        assert response.status_code == 200

    async def test_limit(self, client, trusted):
        statuses = await fail(client, 9)

        assert statuses == [401] * 8 + [429]

    @pytest.mark.parametrize(("day", "is_trusted"), [(40, True), (60, False)])
    async def test_expires_30_days_after_the_last_login(
        self, monkeypatch, day, is_trusted
    ):
        start = time.time()
        await rate_limit.trust_client(EMAIL, IP)
        monkeypatch.setattr(time, "time", lambda: start + 20 * 86_400)
        await rate_limit.trust_client(EMAIL, IP)

        monkeypatch.setattr(time, "time", lambda: start + day * 86_400)

        assert await rate_limit.is_trusted_client(EMAIL, IP) is is_trusted

    @pytest.mark.parametrize("is_trusted", [False, True])
    async def test_password_reset_lifts_all_limits(
        self, client, account, send, is_trusted
    ):
        if is_trusted:
            await log_in(client)
        await fail(client, 9, ip="198.51.100.{}")
        await fail(client, 9)
        await forget(client)

        response = await reset(client, send.await_args_list[0].kwargs["token"])

        assert response.status_code == 200
        assert (await log_in(client, "battery staple")).status_code == 200
        assert await fail(client, 9) == [401] * 8 + [429]


class TestEmails:
    async def test_limit_per_ip(self, client, send):
        emails = [f"user{number}@example.com" for number in range(3)]
        statuses = [(await forget(client, email)).status_code for email in emails]

        response = await forget(client)

        assert (statuses, response.status_code) == ([202] * 3, 429)
        send.assert_not_awaited()

    async def test_limit_per_account(self, client, account, send):
        ips = [f"198.51.100.{number}" for number in range(4)]

        responses = [await forget(client, ip=ip) for ip in ips]

        # The limit doesn't reveal that the account exists, and the latest link works.
        assert {(r.status_code, r.content) for r in responses} == {
            (202, responses[0].content)
        }
        assert send.await_count == 2
        token = send.await_args_list[1].kwargs["token"]
        assert (await reset(client, token)).status_code == 200

    async def test_limit_of_unknown_email(self, client, monkeypatch):
        simulate = AsyncMock()
        monkeypatch.setattr("routers.users.simulate_password_reset_email", simulate)

        [await forget(client, ip=f"198.51.100.{number}") for number in range(4)]

        assert simulate.await_count == 2

    async def test_trusted_client(self, client, trusted, send):
        await forget(client, ip="198.51.100.1")
        await forget(client, ip="198.51.100.2")

        await forget(client)

        assert send.await_count == 3

    async def test_limit_of_notifications(self, client, monkeypatch):
        send = AsyncMock()
        monkeypatch.setattr("notifications.send_email_with_link", send)
        ada = await sign_up(client, "ada")
        path = f"/api/users/{await get_user_id(client, ada)}"

        statuses = [
            (await client.patch(path, json={"email": email}, headers=ada)).status_code
            for email in ("eve@example.net", EMAIL) * 4
        ]

        recipients = [call.kwargs["to_email"] for call in send.await_args_list]
        assert statuses == [200] * 8
        assert recipients.count("eve@example.net") == 2


class TestSignUps:
    @pytest.mark.parametrize(
        ("names", "statuses"),
        [
            ("ada bob eve", [201, 201, 429]),
            ("ada ada ada bob", [201, 400, 400, 201]),
            # Beyond the limit, the response doesn't reveal that a name is taken.
            ("ada bob ada", [201, 201, 429]),
        ],
    )
    async def test_limit(self, client, names, statuses):
        responses = [await register(client, name) for name in names.split()]

        assert [response.status_code for response in responses] == statuses

    async def test_default_allows_100_sign_ups(self):
        default = Settings.model_fields["rate_limit_sign_up_per_ip"].default
        limit = RateLimit(default, ("sign-up", IP))

        await asyncio.gather(*(rate_limit.hit(limit) for _ in range(100)))


class TestUserLimits:
    async def change_password(
        self, client: AsyncClient, headers: Headers, current: str = PASSWORD
    ) -> int:
        passwords = {"current_password": current, "new_password": "new horse"}
        response = await client.patch(
            "/api/users/me/password", json=passwords, headers=headers
        )
        return response.status_code

    async def test_current_passwords(self, client, ada, bob):
        guesses = [await self.change_password(client, ada, "wrong") for _ in range(3)]

        statuses = [await self.change_password(client, user) for user in (ada, bob)]

        assert (guesses, statuses) == ([400] * 3, [429, 200])

    async def test_posts(self, client, ada, bob):
        await create_post(client, ada)
        await create_post(client, ada)

        response = await client.post("/api/posts", json={"content": "-"}, headers=ada)

        assert response.status_code == 429
        assert (await client.get("/api/posts")).json()["total"] == 2
        assert await create_post(client, bob)

    async def test_previews(self, client, ada, bob):
        path, preview = "/api/preview", {"content": "-"}

        responses = [
            await client.post(path, json=preview, headers=user)
            for user in (ada, ada, ada, bob)
        ]

        statuses = [response.status_code for response in responses]
        assert statuses == [200, 200, 429, 200]

    async def test_repeated_post_is_not_counted(self, client, ada):
        headers = {**ada, "Idempotency-Key": "a-key"}

        posts = [await create_post(client, headers) for _ in range(4)]

        assert posts == [posts[0]] * 4

    async def test_uploads(self, client, ada):
        await upload_picture(client, ada, b"invalid")
        await upload_picture(client, ada)

        response = await upload_picture(client, ada)

        assert response.status_code == 429

    async def test_exports(self, client, ada, bob):
        users = (ada, ada, ada, bob)

        responses = [
            await client.get("/api/users/me/export", headers=user) for user in users
        ]

        assert [response.status_code for response in responses] == [200, 200, 429, 200]


class TestCount:
    async def test_announced_wait_is_long_enough(self, monkeypatch):
        limit = RateLimit("1/3 seconds", ("ada",))
        now = 1_000_000.0
        monkeypatch.setattr(time, "time", lambda: now)
        await rate_limit.hit(limit)
        now += 0.7
        with pytest.raises(HTTPException) as raised:
            await rate_limit.hit(limit)
        assert raised.value.headers is not None

        now += int(raised.value.headers["Retry-After"])

        await rate_limit.hit(limit)

    def test_key(self):
        _, key = RateLimit("1/minute", ("login", "a/b", EMAIL * 1000)).counter
        _, other = RateLimit("1/minute", ("login/a", "b", EMAIL * 1000)).counter

        assert key.isalnum()
        assert len(key) == 32
        assert other != key

    @pytest.mark.parametrize(
        ("ip", "network"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:DB8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("testclient", "testclient"),
        ],
    )
    def test_client_network(self, ip, network):
        assert client_network(ip) == network


class TestMemory:
    async def test_least_recently_used_counter_is_evicted(self):
        memory = LRUMemoryStorage(max_keys=2)
        await asyncio.gather(*(memory.incr(key, 60) for key in "abac"))

        counts = [await memory.get(key) for key in "abc"]

        assert counts == [2, 0, 1]

    async def test_window_starts_with_first_event(self, monkeypatch):
        memory = LRUMemoryStorage()
        monkeypatch.setattr(time, "time", lambda: 100.0)
        await memory.incr("key", 60)
        monkeypatch.setattr(time, "time", lambda: 159.0)
        assert await memory.incr("key", 60) == 2

        monkeypatch.setattr(time, "time", lambda: 161.0)

        assert await memory.get("key") == 0
        assert await memory.incr("key", 60) == 1

    async def test_refund_after_window(self):
        memory = LRUMemoryStorage()

        await memory.incr("key", 60, -1)

        assert await memory.incr("key", 60) == 1


class TestRedis:
    @pytest.fixture
    def server(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Server]:
        program = shutil.which("redis-server")
        if program is None:
            stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            stop("redis-server is missing: apt-get install redis-server")
        port = free_port()
        options = ["--port", f"{port}", "--bind", "127.0.0.1", "--save", ""]
        server = subprocess.Popen(
            [program, *options, "--dir", tmp_path, "--requirepass", "a-secret"],
            stdout=subprocess.DEVNULL,
        )
        url = f"redis://:a-secret@127.0.0.1:{port}/0"
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 600)
        with redis.Redis.from_url(url) as client:
            retry.call_with_retry(client.ping, lambda _error: None)
        monkeypatch.setattr(settings, "redis_url", SecretStr(url))
        # Redis may respond late on a busy machine.
        monkeypatch.setattr(rate_limit, "REDIS_TIMEOUT", 15)
        yield server
        server.kill()
        server.wait()

    async def test_processes_share_counters(self, client, server, trusted):
        await fail(client, 8)
        # Simulate another process, which has its own memory.
        await reset_rate_limits()

        response = await log_in(client)

        assert response.status_code == 429
        assert await rate_limit.is_trusted_client(EMAIL, IP)

    async def test_refund(self, client, server, trusted):
        await fail(client, 7)
        await log_in(client)

        assert await fail(client, 2) == [401, 429]

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
    async def test_unavailable(self, client, server, monkeypatch, caplog, how):
        monkeypatch.setattr(rate_limit, "REDIS_TIMEOUT", 0.1)
        server.send_signal(how)

        statuses = await fail(client, 4)

        assert statuses == [401] * 3 + [429]
        assert "Redis unavailable" in caplog.text
        assert "a-secret" not in caplog.text

    async def test_available_again(self, client, server, monkeypatch):
        await fail(client, 2)
        monkeypatch.setattr(rate_limit, "REDIS_RETRY_DELAY", 0.0)
        with monkeypatch.context() as patch:
            patch.setattr(rate_limit, "REDIS_TIMEOUT", 0.1)
            server.send_signal(signal.SIGSTOP)
            await fail(client, 1)
            server.send_signal(signal.SIGCONT)

        await fail(client, 1)
        await reset_rate_limits()

        assert await fail(client, 1) == [429]

    @pytest.mark.parametrize("option", ["nonsense=1", "socket_timeout=soon"])
    async def test_invalid_option(self, client, monkeypatch, caplog, option):
        url = SecretStr(f"redis://127.0.0.1:{free_port()}/0?{option}")
        monkeypatch.setattr(settings, "redis_url", url)

        statuses = await fail(client, 4)

        assert statuses == [401] * 3 + [429]
        assert "Redis unavailable" in caplog.text
