"""How often somebody may try."""

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import AsyncMock

import pytest
from fastapi import Request
from httpx import AsyncClient, Response

import rate_limits
from routers.users import client_address
from tests.conftest import PASSWORD, create_test_user, settings


@pytest.fixture(autouse=True)
async def limited(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Low limits, that count from zero."""
    monkeypatch.setattr(settings, "rate_limit_enabled", True)
    monkeypatch.setattr(settings, "login_rate_account", "3/minute")
    monkeypatch.setattr(settings, "login_rate_address", "5/minute")
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


async def test_owner_can_log_in_while_a_stranger_has_to_wait(
    client: AsyncClient,
) -> None:
    await create_test_user(client)
    await fail(client, 4, forwarded_for="192.0.2.66")

    response = await attempt(client, password=PASSWORD, forwarded_for="192.0.2.1")

    assert response.status_code == 200


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
    ("hops", "forwarded_for", "address"),
    [
        (0, None, "192.0.2.9"),
        (0, b"192.0.2.1", "192.0.2.9"),
        (1, None, "192.0.2.9"),
        (1, b"192.0.2.1", "192.0.2.1"),
        (1, b"198.51.100.1, 192.0.2.1", "192.0.2.1"),
        (2, b"198.51.100.1, 192.0.2.1, 10.0.0.1", "192.0.2.1"),
        (2, b"198.51.100.1", "192.0.2.9"),
    ],
)
def test_network_address_is_what_the_outermost_own_proxy_saw(
    monkeypatch: pytest.MonkeyPatch,
    hops: int,
    forwarded_for: bytes | None,
    address: str,
) -> None:
    monkeypatch.setattr(settings, "trusted_proxy_hops", hops)
    headers = [(b"x-forwarded-for", value) for value in [forwarded_for] if value]
    scope = {"type": "http", "headers": headers, "client": ("192.0.2.9", 1)}

    assert client_address(Request(scope)) == address


async def test_guesses_at_the_same_instant_are_all_counted(
    concurrent_client: AsyncClient,
) -> None:
    await create_test_user(concurrent_client)

    responses = await asyncio.gather(*(attempt(concurrent_client) for _ in range(10)))

    statuses = sorted(response.status_code for response in responses)
    assert statuses == [401] * 3 + [429] * 7


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
