"""Rate limits."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
import redis
from fastapi import HTTPException
from httpx import AsyncClient, Response
from PIL import Image
from pydantic import SecretStr

import auth
import rate_limit
from config import Settings
from executors import QueueFull
from rate_limit import LRUMemoryStorage, RateLimit, client_network
from tests.conftest import (
    PASSWORD,
    create_post,
    create_test_user,
    get_user_id,
    reset_rate_limits,
    settings,
    sign_up,
)
from tests.databases import free_port

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
    "rate_limit_posts_per_user": "2/hour",
    "rate_limit_reset_per_ip": "3/hour",
    "rate_limit_emails_per_account": "2/day",
}


@pytest.fixture(autouse=True)
async def low_limits(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Set low limits and clear all counters."""
    for name, value in LOW_LIMITS.items():
        monkeypatch.setattr(settings, name, value)
    await reset_rate_limits()
    yield
    await reset_rate_limits()


@pytest.fixture
def reset_emails(monkeypatch: pytest.MonkeyPatch) -> AsyncMock:
    """Mock the function that sends password reset emails."""
    send = AsyncMock()
    monkeypatch.setattr("routers.users.send_password_reset_email", send)
    return send


@pytest.fixture
def checked_passwords(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the passwords that reach the password check."""
    passwords = []
    verify = auth.verify_password

    def note(plain_password: str, hashed_password: str) -> bool:
        passwords.append(plain_password)
        return verify(plain_password, hashed_password)

    monkeypatch.setattr("auth.verify_password", note)
    return passwords


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Redis server for the rate limit counters."""
    program = shutil.which("redis-server")
    if program is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop("redis-server is missing: apt-get install redis-server")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(
        [program, *options, "--dir", tmp_path, "--requirepass", "a-secret"],
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://:a-secret@127.0.0.1:{port}/0"
    retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 100)
    with redis.Redis.from_url(url) as client:
        retry.call_with_retry(client.ping, lambda _error: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "redis_url", SecretStr(url))
        yield server
    server.send_signal(signal.SIGCONT)
    server.kill()
    server.wait()


async def log_in(
    client: AsyncClient, email: str = EMAIL, password: str = PASSWORD, ip: str = IP
) -> int:
    """Log in from a client IP; return the status of the response."""
    response = await client.post(
        "/api/users/token",
        data={"username": email, "password": password},
        headers={"X-Forwarded-For": ip},
    )
    return response.status_code


async def fail(
    client: AsyncClient, times: int, *, email: str = EMAIL, ip: str = IP
) -> list[int]:
    """Log in with wrong passwords; return the statuses of the responses."""
    return [await log_in(client, email, "wrong", ip) for _ in range(times)]


async def fail_at_once(client: AsyncClient, times: int) -> list[int]:
    """Log in with wrong passwords at the same time; return the sorted statuses."""
    statuses = await asyncio.gather(
        *(log_in(client, password=f"wrong {number}") for number in range(times))
    )
    return sorted(statuses)


async def request_reset(
    client: AsyncClient, email: str = EMAIL, ip: str = IP
) -> Response:
    """Request a password reset email from a client IP."""
    return await client.post(
        "/api/users/forgot-password",
        json={"email": email},
        headers={"X-Forwarded-For": ip},
    )


async def register(client: AsyncClient, name: str) -> int:
    """Create an account; return the status of the response."""
    response = await client.post(
        "/api/users",
        json={"username": name, "email": f"{name}@example.com", "password": PASSWORD},
    )
    return response.status_code


class TestFailedLogins:
    async def test_response_says_how_long_to_wait(self, client: AsyncClient) -> None:
        await create_test_user(client)
        await fail(client, 3)

        response = await client.post(
            "/api/users/token",
            data={"username": EMAIL, "password": PASSWORD},
            headers={"X-Forwarded-For": IP},
        )

        assert response.status_code == 429
        assert response.json() == {
            "detail": "Too many attempts. Please try again later."
        }
        assert 1 <= int(response.headers["Retry-After"]) <= 60

    async def test_limit_reveals_no_account(self, client: AsyncClient) -> None:
        await create_test_user(client)

        known = await fail(client, 4)
        unknown = await fail(client, 4, email="bob@example.com", ip="192.0.2.2")

        assert known == unknown == [401, 401, 401, 429]

    async def test_account_has_limit_across_all_ips(self, client: AsyncClient) -> None:
        await create_test_user(client)
        ips = [f"192.0.2.{number}" for number in range(10, 19)]

        statuses = [(await fail(client, 1, ip=ip))[0] for ip in ips]

        assert statuses == [401] * 8 + [429]
        assert await log_in(client) == 429

    async def test_ip_has_limit_across_all_accounts(self, client: AsyncClient) -> None:
        emails = [f"{name}@example.com" for name in "abcdef"]

        statuses = [(await fail(client, 1, email=email))[0] for email in emails]

        assert statuses == [401] * 5 + [429]

    async def test_user_can_log_in_while_another_ip_is_limited(
        self, client: AsyncClient
    ) -> None:
        await create_test_user(client)
        await fail(client, 4, ip="192.0.2.66")

        assert await log_in(client) == 200

    async def test_rejected_logins_are_not_counted(self, client: AsyncClient) -> None:
        await create_test_user(client)
        for number in range(10, 18):
            await fail(client, 1, ip=f"192.0.2.{number}")
        rejected = await fail(client, 5)
        emails = [f"{name}@example.com" for name in "abcde"]

        statuses = [(await fail(client, 1, email=email))[0] for email in emails]

        assert rejected == [429] * 5
        assert statuses == [401] * 5

    async def test_email_is_counted_case_insensitively(
        self, client: AsyncClient
    ) -> None:
        await create_test_user(client)
        await fail(client, 3)

        assert await log_in(client, " ADA@example.com ") == 429

    async def test_ipv6_clients_count_by_network(self, client: AsyncClient) -> None:
        ips = [f"2001:db8::{number}" for number in range(4)]

        statuses = [(await fail(client, 1, ip=ip))[0] for ip in ips]

        assert statuses == [401, 401, 401, 429]

    async def test_client_cannot_spoof_its_ip(self, client: AsyncClient) -> None:
        chains = [f"198.51.100.{number}, {IP}" for number in range(4)]

        statuses = [(await fail(client, 1, ip=chain))[0] for chain in chains]

        assert statuses == [401, 401, 401, 429]

    async def test_limits_can_be_turned_off(
        self, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settings, "rate_limit_enabled", False)

        assert await fail(client, 9) == [401] * 9

    async def test_concurrent_guesses_are_all_counted(
        self, concurrent_client: AsyncClient, checked_passwords: list[str]
    ) -> None:
        await create_test_user(concurrent_client)

        statuses = await fail_at_once(concurrent_client, 50)

        assert statuses == [401] * 3 + [429] * 47
        assert len(checked_passwords) == 3

    async def test_concurrent_guesses_are_all_counted_in_redis(
        self,
        concurrent_client: AsyncClient,
        checked_passwords: list[str],
        redis_server: "subprocess.Popen[bytes]",
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # Redis responds late on a busy machine, and this is not about the fallback.
        monkeypatch.setattr(rate_limit, "REDIS_TIMEOUT", 10)
        await create_test_user(concurrent_client)

        statuses = await fail_at_once(concurrent_client, 50)

        assert statuses == [401] * 3 + [429] * 47
        assert len(checked_passwords) == 3


class TestSuccessfulLogins:
    async def test_they_are_not_counted(self, client: AsyncClient) -> None:
        await create_test_user(client)

        assert [await log_in(client) for _ in range(12)] == [200] * 12

    async def test_they_do_not_reset_failures(self, client: AsyncClient) -> None:
        await create_test_user(client, "eve", "eve@example.com")
        others = [f"{name}@example.com" for name in "abcdef"]

        statuses = []
        for email in others:
            await log_in(client, "eve@example.com")
            statuses += await fail(client, 1, email=email)

        assert statuses == [401] * 5 + [429]

    async def test_concurrent_ones_leave_nothing_counted(
        self, concurrent_client: AsyncClient
    ) -> None:
        await create_test_user(concurrent_client)
        await asyncio.gather(*(log_in(concurrent_client) for _ in range(20)))

        others = [f"{name}@example.com" for name in "abcdef"]
        statuses = [(await fail(concurrent_client, 1, email=e))[0] for e in others]
        assert statuses == [401] * 5 + [429]

    async def test_unchecked_password_is_not_counted(
        self, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await create_test_user(client)
        with monkeypatch.context() as patch:
            patch.setattr(
                "routers.login.check_password", AsyncMock(side_effect=QueueFull)
            )
            busy = [await log_in(client) for _ in range(4)]

        assert busy == [503] * 4
        assert await log_in(client) == 200


class TestTrustedClients:
    async def test_attacks_from_other_ips_do_not_lock_it_out(
        self, client: AsyncClient
    ) -> None:
        await create_test_user(client)
        await log_in(client)
        for number in range(10, 20):
            await fail(client, 1, ip=f"192.0.2.{number}")

        assert await log_in(client) == 200

    async def test_attacks_on_other_accounts_do_not_lock_it_out(
        self, client: AsyncClient
    ) -> None:
        await create_test_user(client)
        await log_in(client)
        for name in "abcdef":
            await fail(client, 1, email=f"{name}@example.com")

        assert await log_in(client) == 200

    async def test_it_may_guess_as_often_as_all_others_together(
        self, client: AsyncClient
    ) -> None:
        await create_test_user(client)
        await log_in(client)

        assert await fail(client, 9) == [401] * 8 + [429]
        assert await log_in(client) == 429

    async def test_concurrent_guesses_are_all_counted(
        self, concurrent_client: AsyncClient
    ) -> None:
        await create_test_user(concurrent_client)
        await log_in(concurrent_client)

        assert await fail_at_once(concurrent_client, 20) == [401] * 8 + [429] * 12

    async def test_trust_expires_30_days_after_last_login(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start, day = time.time(), 86_400
        await rate_limit.trust_client(EMAIL, IP)
        monkeypatch.setattr(time, "time", lambda: start + 20 * day)

        await rate_limit.trust_client(EMAIL, IP)

        monkeypatch.setattr(time, "time", lambda: start + 40 * day)
        assert await rate_limit.is_trusted_client(EMAIL, IP)
        monkeypatch.setattr(time, "time", lambda: start + 60 * day)
        assert not await rate_limit.is_trusted_client(EMAIL, IP)

    @pytest.mark.parametrize("trusted_before", [False, True])
    async def test_password_reset_lifts_all_limits(
        self, client: AsyncClient, reset_emails: AsyncMock, trusted_before: bool
    ) -> None:
        await create_test_user(client)
        if trusted_before:
            await log_in(client)
        for attacker in ("192.0.2.7", "192.0.2.8", "192.0.2.9"):
            await fail(client, 3, ip=attacker)
        await fail(client, 9)
        await request_reset(client)
        token = reset_emails.await_args_list[-1].kwargs["token"]

        response = await client.post(
            "/api/users/reset-password",
            json={"token": token, "new_password": "new horse"},
            headers={"X-Forwarded-For": IP},
        )

        assert response.status_code == 200
        assert await log_in(client, password="new horse") == 200
        assert await fail(client, 9) == [401] * 8 + [429]


class TestPasswordResets:
    async def test_ip_is_limited(
        self, client: AsyncClient, reset_emails: AsyncMock
    ) -> None:
        await create_test_user(client)
        emails = [f"{name}@example.com" for name in "abc"]
        statuses = [(await request_reset(client, e)).status_code for e in emails]

        response = await request_reset(client)

        assert statuses == [202] * 3
        assert response.status_code == 429
        reset_emails.assert_not_awaited()

    async def test_emails_are_limited_without_changing_response(
        self, client: AsyncClient, reset_emails: AsyncMock
    ) -> None:
        await create_test_user(client)
        ips = [f"192.0.2.{number}" for number in range(4)]

        responses = [await request_reset(client, ip=ip) for ip in ips]

        assert [response.status_code for response in responses] == [202] * 4
        assert len({response.content for response in responses}) == 1
        assert reset_emails.await_count == 2

    async def test_others_cannot_use_up_emails_of_trusted_client(
        self, client: AsyncClient, reset_emails: AsyncMock
    ) -> None:
        await create_test_user(client)
        await log_in(client)
        for number in range(10, 14):
            await request_reset(client, ip=f"192.0.2.{number}")

        await request_reset(client)

        # Two for the others, one for the trusted client.
        assert reset_emails.await_count == 3

    async def test_last_token_works_after_limit_is_exceeded(
        self, client: AsyncClient, reset_emails: AsyncMock
    ) -> None:
        await create_test_user(client)
        for number in range(4):
            await request_reset(client, ip=f"192.0.2.{number}")
        token = reset_emails.await_args_list[-1].kwargs["token"]

        response = await client.post(
            "/api/users/reset-password",
            json={"token": token, "new_password": "battery staple"},
        )

        assert response.status_code == 200

    async def test_notifications_per_email_address_are_limited(
        self, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send = AsyncMock()
        monkeypatch.setattr("notifications.send_notification", send)
        ada = await sign_up(client, "ada")
        path = f"/api/users/{await get_user_id(client, ada)}"

        for number in range(4):
            for email in (f"ada{number}@example.com", "eve@example.net"):
                await client.patch(path, json={"email": email}, headers=ada)

        recipients = [call.kwargs["to_email"] for call in send.await_args_list]
        assert recipients.count("eve@example.net") == 2


class TestSignUps:
    async def test_created_accounts_are_limited(self, client: AsyncClient) -> None:
        assert [await register(client, name) for name in "abc"] == [201, 201, 429]

    async def test_taken_name_is_not_counted(self, client: AsyncClient) -> None:
        statuses = [await register(client, name) for name in "aaaab"]

        assert statuses == [201, 400, 400, 400, 201]

    async def test_taken_name_is_not_revealed_beyond_the_limit(
        self, client: AsyncClient
    ) -> None:
        assert [await register(client, name) for name in "aba"] == [201, 201, 429]

    async def test_concurrent_ones_are_all_counted(
        self, concurrent_client: AsyncClient
    ) -> None:
        statuses = await asyncio.gather(
            *(register(concurrent_client, f"ada{number}") for number in range(10))
        )

        assert sorted(statuses) == [201] * 2 + [429] * 8


class TestUserLimits:
    async def change_password(
        self, client: AsyncClient, headers: dict[str, str], current: str
    ) -> int:
        response = await client.patch(
            "/api/users/me/password",
            json={"current_password": current, "new_password": "another horse"},
            headers=headers,
        )
        return response.status_code

    async def test_wrong_current_passwords(
        self, client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
    ) -> None:
        guesses = ["wrong 1", "wrong 2", "wrong 3", PASSWORD]

        statuses = [await self.change_password(client, ada, guess) for guess in guesses]

        assert statuses == [400, 400, 400, 429]
        assert await self.change_password(client, bob, PASSWORD) == 200

    async def test_posts(
        self, client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
    ) -> None:
        await create_post(client, ada)
        await create_post(client, ada)

        response = await client.post("/api/posts", json={"content": "-"}, headers=ada)

        assert response.status_code == 429
        assert (await client.get("/api/posts")).json()["total"] == 2
        assert await create_post(client, bob)

    async def test_repeated_post_is_not_counted(
        self, client: AsyncClient, ada: dict[str, str]
    ) -> None:
        headers = {**ada, "Idempotency-Key": "a-key"}

        responses = [
            await client.post("/api/posts", json={"content": "-"}, headers=headers)
            for _ in range(4)
        ]

        assert [response.status_code for response in responses] == [201] * 4

    async def test_uploads(self, client: AsyncClient, ada: dict[str, str]) -> None:
        output = BytesIO()
        Image.new("RGB", (9, 9)).save(output, "PNG")
        path = f"/api/users/{await get_user_id(client, ada)}/picture"
        files = [b"no picture", output.getvalue(), output.getvalue()]

        statuses = [
            (await client.patch(path, files={"file": file}, headers=ada)).status_code
            for file in files
        ]

        assert statuses == [400, 200, 429]


class TestDefaults:
    async def test_fifty_users_can_sign_up_and_log_in(
        self, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in LOW_LIMITS:
            monkeypatch.setattr(settings, name, Settings.model_fields[name].default)
        names = [f"ada{number}" for number in range(50)]

        created = [await register(client, name) for name in names]
        logged_in = [await log_in(client, f"{name}@example.com") for name in names]

        assert created == [201] * 50
        assert logged_in == [200] * 50


class TestCount:
    async def test_announced_wait_is_long_enough(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limit = RateLimit("1/3 seconds", ("ada",))
        now = 1_000_000.0
        monkeypatch.setattr(time, "time", lambda: now)
        await rate_limit.count(limit)
        now += 0.7
        with pytest.raises(HTTPException) as caught:
            await rate_limit.count(limit)
        assert caught.value.headers is not None

        now += int(caught.value.headers["Retry-After"])

        await rate_limit.count(limit)

    def test_key_hides_identifier_and_has_fixed_length(self) -> None:
        _, key = RateLimit("1/minute", ("login", EMAIL * 1000, IP)).counter

        assert key.isalnum()
        assert len(key) == 32

    def test_identifiers_cannot_collide(self) -> None:
        one = RateLimit("1/minute", ("login", "a/b", "c"))
        other = RateLimit("1/minute", ("login", "a", "b/c"))

        assert one.counter != other.counter

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
    def test_ipv6_clients_count_by_network(self, ip: str, network: str) -> None:
        assert client_network(ip) == network


class TestMemory:
    async def test_least_recently_used_counter_is_evicted(self) -> None:
        memory = LRUMemoryStorage(max_keys=2)
        for key in ("a", "b", "a", "c"):
            await memory.incr(key, 60)

        assert [await memory.get(key) for key in "abc"] == [2, 0, 1]

    async def test_window_starts_with_first_event(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = LRUMemoryStorage()
        now = 100.0
        monkeypatch.setattr(time, "time", lambda: now)
        await memory.incr("key", 60)
        now = 159.0
        assert await memory.incr("key", 60) == 2

        now = 161.0

        assert await memory.get("key") == 0
        assert await memory.incr("key", 60) == 1

    async def test_refund_after_window_has_no_effect(self) -> None:
        memory = LRUMemoryStorage()

        await memory.incr("key", 60, -1)

        assert await memory.incr("key", 60) == 1


class TestRedis:
    async def test_processes_share_counters(
        self, client: AsyncClient, redis_server: "subprocess.Popen[bytes]"
    ) -> None:
        await create_test_user(client)
        await log_in(client)
        await fail(client, 8)
        # Like another process, with separate memory.
        await reset_rate_limits()

        assert await rate_limit.is_trusted_client(EMAIL, IP)
        assert await log_in(client) == 429

    async def test_refund_reverts_one_count(
        self, client: AsyncClient, redis_server: "subprocess.Popen[bytes]"
    ) -> None:
        await create_test_user(client)
        await fail(client, 2)

        assert await log_in(client) == 200
        # This client is trusted from now on.
        await rate_limit.clear_failed_logins(EMAIL, IP)
        assert await fail(client, 9) == [401] * 8 + [429]

    async def test_it_is_not_used_while_limits_are_off(
        self, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settings, "redis_url", SecretStr("redis://127.0.0.1:6379"))
        monkeypatch.setattr(settings, "rate_limit_enabled", False)
        redis = Mock()
        monkeypatch.setattr(rate_limit, "_redis", redis)
        await create_test_user(client)

        assert await log_in(client) == 200
        assert not redis.called

    async def test_requests_are_counted(
        self,
        client: AsyncClient,
        redis_server: "subprocess.Popen[bytes]",
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(settings, "rate_limit_default", "2/hour")

        statuses = [(await client.get("/login")).status_code for _ in range(3)]

        assert statuses == [200, 200, 429]

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
    async def test_memory_is_used_while_redis_is_unavailable(
        self,
        client: AsyncClient,
        redis_server: "subprocess.Popen[bytes]",
        caplog: pytest.LogCaptureFixture,
        how: signal.Signals,
    ) -> None:
        await create_test_user(client)
        redis_server.send_signal(how)

        assert await fail(client, 4) == [401, 401, 401, 429]
        assert "Redis unavailable" in caplog.text
        assert "a-secret" not in caplog.text

    async def test_redis_is_used_again_when_available(
        self,
        client: AsyncClient,
        redis_server: "subprocess.Popen[bytes]",
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(rate_limit, "REDIS_RETRY_DELAY", 0.0)
        redis_server.send_signal(signal.SIGSTOP)
        await fail(client, 1)
        redis_server.send_signal(signal.SIGCONT)

        await fail(client, 3)
        await reset_rate_limits()

        assert await fail(client, 1) == [429]

    @pytest.mark.parametrize("option", ["nonsense=1", "socket_timeout=soon"])
    async def test_memory_is_used_if_option_is_unknown(
        self,
        client: AsyncClient,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        option: str,
    ) -> None:
        url = SecretStr(f"redis://127.0.0.1:{free_port()}/0?{option}")
        monkeypatch.setattr(settings, "redis_url", url)

        assert await fail(client, 4) == [401, 401, 401, 429]
        assert "Redis unavailable" in caplog.text
