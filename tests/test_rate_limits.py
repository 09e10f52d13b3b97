"""How often somebody may try."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
import redis
from fastapi import Request
from httpx import AsyncClient, Response
from PIL import Image
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

import rate_limits
from main import app
from rate_limits import (
    BoundedMemory,
    LimitReached,
    RateLimit,
    client_address,
    network_of,
)
from routers.users import own_login_limit
from tests.conftest import (
    PASSWORD,
    create_post,
    create_test_user,
    own_id,
    settings,
    sign_up,
)
from tests.databases import free_port


@pytest.fixture(autouse=True)
async def limited(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Low limits, that count from zero."""
    monkeypatch.setattr(settings, "rate_limit_enabled", True)
    monkeypatch.setattr(settings, "login_rate_account", "3/minute")
    monkeypatch.setattr(settings, "login_rate_account_anywhere", "8/hour")
    monkeypatch.setattr(settings, "login_rate_address", "5/minute")
    monkeypatch.setattr(settings, "sign_up_rate", "2/hour")
    monkeypatch.setattr(settings, "password_rate", "3/hour")
    monkeypatch.setattr(settings, "upload_rate", "2/hour")
    monkeypatch.setattr(settings, "post_rate", "2/hour")
    monkeypatch.setattr(settings, "reset_rate_address", "3/hour")
    monkeypatch.setattr(settings, "reset_rate_account", "2/day")
    await rate_limits.reset()
    yield
    await rate_limits.reset()


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> AsyncMock:
    """What is called to send a reset mail."""
    send = AsyncMock()
    monkeypatch.setattr("routers.users.send_password_reset_email", send)
    return send


async def attempt(
    client: AsyncClient,
    email: str = "ada@example.com",
    password: str = "wrong",
    forwarded_for: str = "192.0.2.1",
) -> Response:
    """Try to log in from a network address."""
    return await client.post(
        "/api/users/token",
        data={"username": email, "password": password},
        headers={"X-Forwarded-For": forwarded_for},
    )


async def fail(client: AsyncClient, times: int, **details: str) -> list[int]:
    """Try to log in again and again; gives the statuses."""
    return [(await attempt(client, **details)).status_code for _ in range(times)]


async def forget(
    client: AsyncClient,
    email: str = "ada@example.com",
    forwarded_for: str = "192.0.2.1",
) -> Response:
    """Ask for a reset mail from a network address."""
    return await client.post(
        "/api/users/forgot-password",
        json={"email": email},
        headers={"X-Forwarded-For": forwarded_for},
    )


async def test_login_that_failed_too_often_has_to_wait(client: AsyncClient) -> None:
    await create_test_user(client)
    assert await fail(client, 3) == [401, 401, 401]

    response = await attempt(client)

    assert response.status_code == 429
    assert isinstance(response.json()["detail"], str)
    assert 1 <= int(response.headers["Retry-After"]) <= 60


async def test_limit_holds_for_the_right_password_too(client: AsyncClient) -> None:
    await create_test_user(client)
    await fail(client, 3)

    response = await attempt(client, password=PASSWORD)

    assert response.status_code == 429


async def test_limit_tells_nothing_about_the_account(client: AsyncClient) -> None:
    await create_test_user(client, "ada", "ada@example.com")

    known = await fail(client, 4, forwarded_for="192.0.2.1")
    unknown = await fail(
        client, 4, email="nobody@example.com", forwarded_for="192.0.2.2"
    )

    assert known == unknown == [401, 401, 401, 429]


async def test_account_is_tried_only_so_often_from_everywhere(
    client: AsyncClient,
) -> None:
    await create_test_user(client)
    statuses = [
        (await attempt(client, forwarded_for=f"192.0.2.{number}")).status_code
        for number in range(9)
    ]

    response = await attempt(client, password=PASSWORD, forwarded_for="192.0.2.99")

    assert statuses == [401] * 8 + [429]
    assert response.status_code == 429


async def test_who_has_logged_in_from_an_address_is_not_kept_out_by_strangers(
    client: AsyncClient,
) -> None:
    await create_test_user(client)
    before = await attempt(client, password=PASSWORD, forwarded_for="192.0.2.1")
    for number in range(10, 20):
        await attempt(client, forwarded_for=f"192.0.2.{number}")

    response = await attempt(client, password=PASSWORD, forwarded_for="192.0.2.1")

    assert (before.status_code, response.status_code) == (200, 200)


async def test_who_has_logged_in_from_an_address_is_not_kept_out_by_its_others(
    client: AsyncClient,
) -> None:
    await create_test_user(client)
    await attempt(client, password=PASSWORD)
    others = [f"{name}@example.com" for name in "abcdef"]
    statuses = [(await attempt(client, other)).status_code for other in others]

    response = await attempt(client, password=PASSWORD)

    assert statuses == [401] * 5 + [429]
    assert response.status_code == 200


async def test_who_has_logged_in_from_an_address_may_not_guess_without_end(
    client: AsyncClient,
) -> None:
    await create_test_user(client)
    await attempt(client, password=PASSWORD)

    assert await fail(client, 4) == [401, 401, 401, 429]


async def test_who_has_logged_in_from_an_address_is_not_kept_out_by_its_neighbours(
    client: AsyncClient,
) -> None:
    await create_test_user(client)
    await attempt(client, password=PASSWORD)
    guesses = await fail(client, 5)

    response = await attempt(client, password=PASSWORD)

    assert guesses == [401, 401, 401, 429, 429]
    assert response.status_code == 200


async def test_neighbours_may_guess_no_more_than_strangers(
    client: AsyncClient,
) -> None:
    await create_test_user(client)
    await attempt(client, password=PASSWORD)
    await fail(client, 8)

    response = await attempt(client, password=PASSWORD)

    assert response.status_code == 429


async def test_neighbours_who_guess_at_once_get_no_further(
    concurrent_client: AsyncClient,
) -> None:
    await create_test_user(concurrent_client)
    await attempt(concurrent_client, password=PASSWORD)

    answers = await asyncio.gather(*(attempt(concurrent_client) for _ in range(20)))

    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [401] * 3 + [429] * 17


async def test_owner_can_log_in_while_a_stranger_has_to_wait(
    client: AsyncClient,
) -> None:
    await create_test_user(client)
    await fail(client, 4, forwarded_for="192.0.2.66")

    response = await attempt(client, password=PASSWORD, forwarded_for="192.0.2.1")

    assert response.status_code == 200


@pytest.mark.parametrize("was_known", [False, True])
async def test_owner_can_log_in_after_a_reset_whatever_failed_before(
    client: AsyncClient, mail: AsyncMock, was_known: bool
) -> None:
    await create_test_user(client)
    if was_known:
        await attempt(client, password=PASSWORD)
    for stranger in ("192.0.2.7", "192.0.2.8", "192.0.2.9"):
        await fail(client, 3, forwarded_for=stranger)
    await fail(client, 9)
    await forget(client)
    token = mail.await_args_list[-1].kwargs["token"]
    reset = {"token": token, "new_password": "new horse"}

    response = await client.post(
        "/api/users/reset-password",
        json=reset,
        headers={"X-Forwarded-For": "192.0.2.1"},
    )

    assert response.status_code == 200
    assert (await attempt(client, password="new horse")).status_code == 200
    assert await fail(client, 4) == [401, 401, 401, 429]


async def test_success_is_not_counted(client: AsyncClient) -> None:
    await create_test_user(client)

    statuses = await fail(client, 7, password=PASSWORD)

    assert statuses == [200] * 7


async def test_other_spelling_of_an_address_is_no_other_account(
    client: AsyncClient,
) -> None:
    await create_test_user(client)
    await fail(client, 3)

    response = await attempt(client, " ADA@example.com ")

    assert response.status_code == 429


async def test_failures_with_many_accounts_are_counted_by_network_address(
    client: AsyncClient,
) -> None:
    names = ["a", "b", "c", "d", "e", "f"]

    statuses = [
        (await attempt(client, f"{name}@example.com")).status_code for name in names
    ]

    assert statuses == [401] * 5 + [429]


async def test_network_address_is_not_the_clients_to_choose(
    client: AsyncClient,
) -> None:
    forged = [f"198.51.100.{number}, 192.0.2.1" for number in range(4)]

    statuses = [
        (await attempt(client, forwarded_for=chain)).status_code for chain in forged
    ]

    assert statuses == [401, 401, 401, 429]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:4711", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("[", "["),
        ("", ""),
    ],
)
def test_client_is_told_by_the_network_that_it_was_given(
    address: str, network: str
) -> None:
    assert network_of(address) == network


async def test_failures_from_one_ipv6_network_are_counted_together(
    client: AsyncClient,
) -> None:
    addresses = [f"2001:db8::{number}" for number in range(4)]

    statuses = [
        (await attempt(client, forwarded_for=address)).status_code
        for address in addresses
    ]

    assert statuses == [401, 401, 401, 429]


@pytest.mark.parametrize(
    ("hops", "forwarded_for", "address"),
    [
        (0, None, "192.0.2.9"),
        (0, b"192.0.2.1", "192.0.2.9"),
        (1, None, "192.0.2.9"),
        (1, b"192.0.2.1", "192.0.2.1"),
        (1, b"198.51.100.1, 192.0.2.1", "192.0.2.1"),
        (2, b"198.51.100.1, 192.0.2.1, 10.0.0.1", "192.0.2.1"),
        (2, b"198.51.100.1", "127.0.0.1"),
        (1, b"198.51.100.1,", "127.0.0.1"),
        (1, b"", "127.0.0.1"),
    ],
)
def test_network_address_is_what_the_outermost_own_proxy_saw(
    monkeypatch: pytest.MonkeyPatch,
    hops: int,
    forwarded_for: bytes | None,
    address: str,
) -> None:
    monkeypatch.setattr(settings, "trusted_proxy_hops", hops)
    headers = [
        (b"x-forwarded-for", value) for value in [forwarded_for] if value is not None
    ]
    scope = {"type": "http", "headers": headers, "client": ("192.0.2.9", 1)}

    assert client_address(Request(scope)) == address


async def test_guesses_at_the_same_instant_are_all_counted(
    concurrent_client: AsyncClient,
) -> None:
    await create_test_user(concurrent_client)

    responses = await asyncio.gather(*(attempt(concurrent_client) for _ in range(10)))

    statuses = sorted(response.status_code for response in responses)
    assert statuses == [401] * 3 + [429] * 7


async def test_who_goes_on_after_many_refusals_gets_the_next_one_late(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "PROMPT_REFUSALS", 2)
    monkeypatch.setattr(rate_limits, "LATE_REFUSAL_SECONDS", 60.0)
    await fail(client, 3)

    async with asyncio.timeout(30):
        prompt = await fail(client, 2)
        elsewhere = await fail(client, 1, forwarded_for="192.0.2.2")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await fail(client, 1)

    assert (prompt, elsewhere) == ([429, 429], [401])


async def test_late_refusals_come_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate_limits, "PROMPT_REFUSALS", 0)
    sleep = AsyncMock()
    monkeypatch.setattr("rate_limits.asyncio.sleep", sleep)

    for _ in range(20):
        await rate_limits.delay_refusal("192.0.2.1")

    seconds = [call.args[0] for call in sleep.await_args_list]
    assert len(set(seconds)) == len(seconds)
    assert min(seconds) > 0.2
    assert max(seconds) < 0.8


async def test_limits_can_be_turned_off(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "rate_limit_enabled", False)

    statuses = await fail(client, 7)

    assert statuses == [401] * 7


async def test_who_asks_for_mails_too_often_has_to_wait(
    client: AsyncClient, mail: AsyncMock
) -> None:
    await create_test_user(client)
    statuses = [
        (await forget(client, f"{name}@example.com")).status_code for name in "abc"
    ]

    response = await forget(client, "ada@example.com")

    assert statuses == [202] * 3
    assert response.status_code == 429
    assert 1 <= int(response.headers["Retry-After"]) <= 3600
    mail.assert_not_awaited()


async def test_account_gets_only_so_many_mails_and_nobody_learns_of_it(
    client: AsyncClient, mail: AsyncMock
) -> None:
    await create_test_user(client)

    responses = [
        await forget(client, forwarded_for=f"192.0.2.{number}") for number in range(4)
    ]

    assert [response.status_code for response in responses] == [202] * 4
    assert len({response.content for response in responses}) == 1
    assert mail.await_count == 2


async def test_owner_gets_a_mail_after_strangers_have_used_them_up(
    client: AsyncClient, mail: AsyncMock
) -> None:
    await create_test_user(client)
    await attempt(client, password=PASSWORD, forwarded_for="192.0.2.1")
    for number in range(10, 14):
        await forget(client, forwarded_for=f"192.0.2.{number}")

    await forget(client, forwarded_for="192.0.2.1")

    # Two for strangers, one for who has logged in from there before.
    assert mail.await_count == 3


async def test_last_mailed_token_still_works_when_no_more_are_sent(
    client: AsyncClient, mail: AsyncMock
) -> None:
    await create_test_user(client)
    addresses = [f"192.0.2.{number}" for number in range(4)]
    [await forget(client, forwarded_for=address) for address in addresses]

    response = await client.post(
        "/api/users/reset-password",
        json={
            "token": mail.await_args_list[-1].kwargs["token"],
            "new_password": "battery staple",
        },
    )

    assert response.status_code == 200


# Other limits


async def try_to_sign_up(client: AsyncClient, name: str) -> Response:
    return await client.post(
        "/api/users",
        json={"username": name, "email": f"{name}@example.com", "password": PASSWORD},
    )


async def test_address_makes_only_so_many_accounts(client: AsyncClient) -> None:
    statuses = [(await try_to_sign_up(client, name)).status_code for name in "abc"]

    assert statuses == [201, 201, 429]


async def test_name_that_is_taken_is_no_account_made(client: AsyncClient) -> None:
    names = ["a", "a", "a", "a", "b"]

    statuses = [(await try_to_sign_up(client, name)).status_code for name in names]

    assert statuses == [201, 400, 400, 400, 201]


async def test_right_passwords_at_the_same_instant_are_no_failures(
    concurrent_client: AsyncClient,
) -> None:
    await create_test_user(concurrent_client)

    responses = await asyncio.gather(
        *(attempt(concurrent_client, password=PASSWORD) for _ in range(20))
    )

    assert {response.status_code for response in responses} == {200}
    assert rate_limits._trying == {}


async def test_right_password_waits_behind_wrong_ones_that_leave_room_for_it(
    concurrent_client: AsyncClient,
) -> None:
    await create_test_user(concurrent_client)
    passwords = ["wrong", PASSWORD, "wrong", PASSWORD, PASSWORD, PASSWORD]

    responses = await asyncio.gather(
        *(attempt(concurrent_client, password=password) for password in passwords)
    )

    statuses = [response.status_code for response in responses]
    assert statuses == [401, 200, 401, 200, 200, 200]


async def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MOST_WAITING", 2)
    limit = RateLimit("3/minute", ("somebody",))
    may_end = asyncio.Event()

    async def try_something() -> None:
        async with rate_limits.attempt(limit):
            await may_end.wait()

    tasks = [asyncio.create_task(try_something()) for _ in range(10)]
    for _ in range(10):
        await asyncio.sleep(0)
    may_end.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes[:5]] == [type(None)] * 5
    assert [type(outcome) for outcome in outcomes[5:]] == [LimitReached] * 5
    assert rate_limits._trying == {}


async def test_wait_that_is_announced_is_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = RateLimit("1/3 seconds", ("somebody",))
    moment = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: moment)
    await rate_limits.count(limit)
    moment += 0.7
    with pytest.raises(LimitReached) as caught:
        await rate_limits.count(limit)

    moment += caught.value.retry_after

    await rate_limits.count(limit)


async def test_accounts_made_at_the_same_instant_are_all_counted(
    concurrent_client: AsyncClient,
) -> None:
    names = [f"ada{number}" for number in range(10)]

    responses = await asyncio.gather(
        *(try_to_sign_up(concurrent_client, name) for name in names)
    )

    statuses = sorted(response.status_code for response in responses)
    assert statuses == [201] * 2 + [429] * 8


async def change_password(
    client: AsyncClient, headers: dict[str, str], current: str
) -> Response:
    return await client.patch(
        "/api/users/me/password",
        json={"current_password": current, "new_password": "another horse"},
        headers=headers,
    )


async def test_current_password_is_guessed_only_so_often(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    guesses = ["wrong 1", "wrong 2", "wrong 3", PASSWORD]

    statuses = [
        (await change_password(client, ada, guess)).status_code for guess in guesses
    ]

    assert statuses == [400, 400, 400, 429]


async def test_guesses_of_one_user_keep_no_other_from_a_change(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    for _ in range(4):
        await change_password(client, ada, "wrong")

    response = await change_password(client, bob, PASSWORD)

    assert response.status_code == 200


async def test_user_publishes_only_so_often(
    client: AsyncClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    await create_post(client, ada)
    await create_post(client, ada)

    refused = await client.post("/api/posts", json={"content": "-"}, headers=ada)

    assert refused.status_code == 429
    assert (await client.get("/api/posts")).json()["total"] == 2
    assert await create_post(client, bob)


async def test_repeated_request_to_publish_is_answered_beyond_the_limit(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    headers = {**ada, "Idempotency-Key": "a-key"}

    answers = [
        await client.post("/api/posts", json={"content": "-"}, headers=headers)
        for _ in range(4)
    ]

    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.content for answer in answers}) == 1


async def test_user_sends_only_so_many_pictures(
    client: AsyncClient, ada: dict[str, str]
) -> None:
    output = BytesIO()
    Image.new("RGB", (9, 9)).save(output, "PNG")
    path = f"/api/users/{await own_id(client, ada)}/picture"
    files = [b"no picture", output.getvalue(), output.getvalue()]

    statuses = [
        (await client.patch(path, files={"file": file}, headers=ada)).status_code
        for file in files
    ]

    assert statuses == [400, 200, 429]


# Where it is counted


async def test_memory_forgets_the_key_that_was_used_longest_ago() -> None:
    memory = BoundedMemory(most_keys=2)
    for key in ("a", "b", "a", "c"):
        await memory.acquire_entry(key, 10, 60)

    windows = [await memory.get_moving_window(key, 10, 60) for key in ("a", "b", "c")]

    assert [number for _, number in windows] == [2, 0, 1]


async def test_memory_counts_within_its_window_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = BoundedMemory()
    clock = iter([100.0, 100.0, 130.0, 130.0, 161.0, 161.0])
    monkeypatch.setattr("rate_limits.time.time", lambda: next(clock))

    entered = [await memory.acquire_entry("key", 2, 60) for _ in range(3)]

    # At the third the first is 61 seconds old.
    assert entered == [True, True, True]


async def test_keys_tell_nobody_who_it_is() -> None:
    limit = RateLimit("1/minute", ("login", "ada@example.com", "192.0.2.1"))

    assert limit.key.isalnum()
    assert len(limit.key) == 32


def test_parts_of_a_key_cannot_be_confused() -> None:
    one = RateLimit("1/minute", ("login", "a/b", "c"))
    other = RateLimit("1/minute", ("login", "a", "b/c"))

    assert one.key != other.key


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A Redis of the test's own, in which the limits are counted."""
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
    with redis.Redis.from_url(url) as client:
        wait_until_ready(client)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "redis_url", SecretStr(url))
        yield server
    server.send_signal(signal.SIGCONT)
    server.kill()
    server.wait()


def wait_until_ready(client: "redis.Redis") -> None:
    """Return when a Redis that was just started answers."""
    retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 100)
    retry.call_with_retry(client.ping, lambda _error: None)


async def forget_own_memory() -> None:
    """Stand in for another process, which has a memory of its own."""
    await rate_limits.reset()


async def test_processes_count_together_in_redis(
    client: AsyncClient, redis_server: "subprocess.Popen[bytes]"
) -> None:
    await create_test_user(client)
    await fail(client, 3)
    await forget_own_memory()

    response = await attempt(client)

    assert response.status_code == 429
    assert 1 <= int(response.headers["Retry-After"]) <= 60


async def test_process_learns_from_redis_who_has_logged_in_before(
    client: AsyncClient, redis_server: "subprocess.Popen[bytes]"
) -> None:
    await create_test_user(client)
    await attempt(client, password=PASSWORD)
    await forget_own_memory()

    assert await rate_limits.is_known("login", "ada@example.com", "192.0.2.1")


async def test_redis_forgets_what_it_is_told_to(
    client: AsyncClient, redis_server: "subprocess.Popen[bytes]"
) -> None:
    await create_test_user(client)
    await fail(client, 3)

    await rate_limits.forget(own_login_limit("ada@example.com", "192.0.2.1"))

    assert await fail(client, 1) == [401]


async def test_requests_of_all_kinds_are_counted_in_redis(
    client: AsyncClient,
    redis_server: "subprocess.Popen[bytes]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "general_rate", "2/hour")

    statuses = [(await client.get("/login")).status_code for _ in range(3)]

    assert statuses == [200, 200, 429]


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP])
async def test_memory_counts_while_redis_is_away(
    client: AsyncClient,
    redis_server: "subprocess.Popen[bytes]",
    caplog: pytest.LogCaptureFixture,
    way: signal.Signals,
) -> None:
    await create_test_user(client)
    redis_server.send_signal(way)

    statuses = await fail(client, 4)

    assert statuses == [401, 401, 401, 429]
    assert "Redis is away" in caplog.text
    assert "a-secret" not in caplog.text


async def test_redis_counts_again_when_it_is_back(
    client: AsyncClient,
    redis_server: "subprocess.Popen[bytes]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate_limits, "REDIS_PAUSE_SECONDS", 0.0)
    redis_server.send_signal(signal.SIGSTOP)
    await attempt(client)
    redis_server.send_signal(signal.SIGCONT)

    await fail(client, 3)
    await forget_own_memory()

    assert await fail(client, 1) == [429]


async def test_name_that_is_taken_is_no_news_beyond_the_limit(
    client: AsyncClient,
) -> None:
    for name in "ab":
        await try_to_sign_up(client, name)

    assert (await try_to_sign_up(client, "a")).status_code == 429


async def test_who_comes_again_is_remembered_for_another_month(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, days = time.time(), 86_400
    await rate_limits.remember("login", "ada")
    monkeypatch.setattr(time, "time", lambda: start + 20 * days)

    await rate_limits.remember("login", "ada")

    monkeypatch.setattr(time, "time", lambda: start + 40 * days)
    assert await rate_limits.is_known("login", "ada")
    monkeypatch.setattr(time, "time", lambda: start + 60 * days)
    assert not await rate_limits.is_known("login", "ada")


async def test_address_gets_only_so_many_notes(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = AsyncMock()
    monkeypatch.setattr("routers.users.send_notification", send)
    ada = await sign_up(client, "ada")
    path = f"/api/users/{await own_id(client, ada)}"

    for number in range(4):
        for address in (f"ada{number}@example.com", "stranger@example.net"):
            await client.patch(path, json={"email": address}, headers=ada)

    told = [call.kwargs["to_email"] for call in send.await_args_list]
    assert told.count("stranger@example.net") == 2


@pytest.mark.parametrize(
    "written",
    [
        "192.0.2.1",
        "192.0.2.1:4711",
        "192.0.2.1: 4_711",
        "192.0.2.1:x",
        "192.0.2.1, 127.0.0.1",
        "[2001:db8::1]:4711",
        "[2001:db8::1]x",
        "[2001:db8::1",
        "somewhere",
    ],
)
async def test_address_that_a_client_wrote_for_the_server_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setattr(settings, "trusted_proxy_hops", 0)
    addresses = []

    async def note_address(scope: Scope, _receive: Receive, _send: Send) -> None:
        addresses.append(client_address(Request(scope)))

    headers = [(b"x-forwarded-for", written.encode())]
    scope = {"type": "http", "headers": headers, "client": ("127.0.0.1", 50_000)}
    # As uvicorn begins with every application, unless it is told not to.
    middleware: Any = ProxyHeadersMiddleware
    server = middleware(note_address, trusted_hosts="127.0.0.1")
    await server(scope, AsyncMock(), AsyncMock())

    assert scope["client"] != ("127.0.0.1", 50_000)
    assert addresses == ["127.0.0.1"]


async def test_access_log_names_whom_the_trusted_proxy_saw() -> None:
    # The server writes the line from this very scope. What it made of the header itself
    # is the first address, which the client wrote.
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/login",
        "query_string": b"",
        "headers": [
            (b"host", b"testserver"),
            (b"x-forwarded-for", b"203.0.113.66, 192.0.2.1"),
        ],
        "client": ("203.0.113.66", 0),
    }

    await app(scope, AsyncMock(), AsyncMock())

    assert scope["client"] == ("192.0.2.1", 0)
