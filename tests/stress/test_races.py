"""Race conditions between fifty concurrent requests, repeated many times.

`tests/test_races.py` has smaller versions of these tests.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient, Request, Response
from sqlalchemy import delete, func, select

from auth import hash_reset_token
from database import AsyncSessionLocal
from main import app
from models import PasswordResetToken, Post, User, utcnow
from tests.conftest import (
    PASSWORD,
    create_post,
    get_user_id,
    list_objects,
    login_user,
    sign_up,
)
from tests.stress.conftest import Figures
from tests.test_races import count, count_responses, sign_ups, upload

CROWD = 50
MOST_TRIES = 100
PAUSE_SECONDS = 0.1

Headers = dict[str, str]
Outcome = Any
NAME_TAKEN = (400, "Username already exists")
ADDRESS_TAKEN = (400, "Email already registered")
ENDED = (401, "Invalid or expired token")


class RetryTransport(ASGITransport):
    """A transport that retries 503 responses, as clients should.

    On a busy machine, a 503 is not an error; the result of the race must be the same.
    """

    turned_away = 0

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request until the response is not a 503."""
        for _ in range(MOST_TRIES):
            response = await super().handle_async_request(request)
            if response.status_code != 503:
                break
            self.turned_away += 1
            await asyncio.sleep(PAUSE_SECONDS)
        return response


@pytest.fixture
def retry_transport() -> RetryTransport:
    """Return the transport of a test's requests."""
    return RetryTransport(app)


@pytest.fixture
async def client(
    concurrent_client: AsyncClient, retry_transport: RetryTransport
) -> AsyncIterator[AsyncClient]:
    """Return `concurrent_client`, which cleans up, with retries."""
    async with AsyncClient(
        transport=retry_transport,
        base_url=concurrent_client.base_url,
        event_hooks=concurrent_client.event_hooks,
    ) as client:
        yield client


@pytest.fixture
def rounds(full: bool) -> range:
    """Return the numbers of the rounds per race."""
    return range(200 if full else 1)


@dataclass(frozen=True)
class RaceRecorder:
    """Record the results of races; a race fails if any round fails."""

    figures: Figures
    retry_transport: RetryTransport

    def __call__(self, race: str, outcomes: list[Outcome], expected: Outcome) -> None:
        wrong = [outcome for outcome in outcomes if outcome != expected]
        example = f", such as {wrong[0]}" if wrong else ""
        turned_away = self.retry_transport.turned_away
        self.figures.add(
            f"race of {CROWD}: {race}",
            f"{len(wrong)} of {len(outcomes)} rounds went wrong{example}; "
            f"{turned_away} of {len(outcomes) * CROWD:,} requests turned away",
            "0; 0",
            not wrong and not turned_away,
        )
        assert wrong == []


@pytest.fixture
def judge(figures: Figures, retry_transport: RetryTransport) -> RaceRecorder:
    """Return where a test records its races."""
    return RaceRecorder(figures, retry_transport)


def expect_one_winner(status: int, loss: tuple[int, str]) -> Counter[tuple[int, str]]:
    """Return the expected responses if one request wins."""
    return Counter({(status, ""): 1, loss: CROWD - 1})


async def at_once(requests: Sequence[Awaitable[Response]]) -> list[Response]:
    """Send all requests before any response arrives."""
    return await asyncio.gather(*requests)


async def people(client: AsyncClient, number: int = CROWD) -> list[tuple[str, Headers]]:
    """Sign up users; return their paths and headers."""
    headers = [await sign_up(client, f"user{n}") for n in range(number)]
    return [(f"/api/users/{await get_user_id(client, each)}", each) for each in headers]


async def names() -> list[str]:
    """Return the usernames in order of sign-up."""
    async with AsyncSessionLocal() as session:
        return list(await session.scalars(select(User.username).order_by(User.id)))


async def store_reset_token(user_id: int, token: str) -> None:
    """Store a reset token as if it had been emailed, replacing all others."""
    async with AsyncSessionLocal() as session:
        await session.execute(delete(PasswordResetToken))
        session.add(
            PasswordResetToken(
                user_id=user_id,
                token_hash=hash_reset_token(token),
                expires_at=utcnow() + timedelta(hours=1),
            )
        )
        await session.commit()


async def find_inconsistencies(bucket: Any) -> list[str]:
    """Return inconsistencies in the stored data."""
    faults = []
    async with AsyncSessionLocal() as session:
        images = await session.scalars(
            select(User.image_file).where(User.image_file.is_not(None))
        )
        named = {f"profile_pics/{image}" for image in images}
        orphans = await session.scalar(
            select(func.count(Post.id)).where(Post.user_id.not_in(select(User.id)))
        )
        most = await session.scalar(
            select(func.count(PasswordResetToken.id))
            .group_by(PasswordResetToken.user_id)
            .order_by(func.count(PasswordResetToken.id).desc())
            .limit(1)
        )
    if named != set(list_objects(bucket)):
        faults.append(f"rows name {named}, stored are {list_objects(bucket)}")
    if orphans:
        faults.append(f"{orphans} posts without an author")
    if (most or 0) > 1:
        faults.append(f"{most} reset tokens of one user")
    return faults


def winner_of(responses: list[Response]) -> int:
    """Return the index of the successful response."""
    return [response.is_success for response in responses].index(True)


# Sign-up


@pytest.mark.parametrize(
    ("race", "name", "email", "loss"),
    [
        ("sign-ups with one name", "ada{round}", "{round}.{n}@example.com", NAME_TAKEN),
        (
            "sign-ups with one name in two cases",
            "{letter}va{round}",
            "{round}.{n}@example.com",
            NAME_TAKEN,
        ),
        (
            "sign-ups with one email",
            "ada{round}.{n}",
            "{round}@example.com",
            ADDRESS_TAKEN,
        ),
    ],
)
async def test_one_concurrent_sign_up_wins(
    client: AsyncClient,
    rounds: range,
    judge: RaceRecorder,
    race: str,
    name: str,
    email: str,
    loss: tuple[int, str],
) -> None:
    async def once(number: int) -> Outcome:
        users = [
            (
                name.format(round=number, n=n, letter="Éé"[n % 2]),
                email.format(round=number, n=n),
            )
            for n in range(CROWD)
        ]
        responses = await sign_ups(client, users)
        await login_user(client, users[winner_of(responses)][1])
        return count_responses(responses), await count(User) - number

    outcomes = [await once(number) for number in rounds]

    judge(race, outcomes, (expect_one_winner(201, loss), 1))


# Usernames


async def test_one_user_gets_contested_name(
    client: AsyncClient, rounds: range, judge: RaceRecorder
) -> None:
    crowd = await people(client)

    async def once(number: int) -> Outcome:
        name = f"countess{number}"
        responses = await at_once(
            [
                client.patch(path, json={"username": name}, headers=headers)
                for path, headers in crowd
            ]
        )
        return count_responses(responses), (await names()).count(name)

    outcomes = [await once(number) for number in rounds]

    judge("renames to one name", outcomes, (expect_one_winner(200, NAME_TAKEN), 1))


@pytest.mark.parametrize(
    ("race", "whose"),
    [
        # The first user takes the name of the second and vice versa, and so on.
        ("names swapped in pairs", [n ^ 1 for n in range(CROWD)]),
        ("names passed on in a ring", [(n + 1) % CROWD for n in range(CROWD)]),
    ],
    ids=["in pairs", "in a ring"],
)
async def test_users_swapping_names_keep_them(
    client: AsyncClient, rounds: range, judge: RaceRecorder, race: str, whose: list[int]
) -> None:
    crowd = await people(client)
    before = await names()

    async def once(_number: int) -> Outcome:
        responses = await at_once(
            [
                client.patch(path, json={"username": before[n]}, headers=headers)
                for (path, headers), n in zip(crowd, whose, strict=True)
            ]
        )
        return count_responses(responses), await names() == before

    outcomes = [await once(number) for number in rounds]

    judge(race, outcomes, (Counter({NAME_TAKEN: CROWD}), True))


# Passwords


async def test_reset_token_works_once(
    client: AsyncClient, rounds: range, judge: RaceRecorder
) -> None:
    user_id = await get_user_id(client, await sign_up(client, "ada"))

    async def once(number: int) -> Outcome:
        await store_reset_token(user_id, f"token {number}")
        responses = await at_once(
            [
                client.post(
                    "/api/users/reset-password",
                    json={
                        "token": f"token {number}",
                        "new_password": f"password {number}.{n}",
                    },
                )
                for n in range(CROWD)
            ]
        )
        password = f"password {number}.{winner_of(responses)}"
        await login_user(client, "ada@example.com", password)
        return count_responses(responses), await count(PasswordResetToken)

    outcomes = [await once(number) for number in rounds]

    loss = (400, "Invalid or expired reset token")
    judge("uses of one reset token", outcomes, (expect_one_winner(200, loss), 0))


async def test_one_concurrent_password_change_wins(
    client: AsyncClient, rounds: range, judge: RaceRecorder
) -> None:
    headers = await sign_up(client, "ada")
    current = PASSWORD

    async def once(number: int) -> Outcome:
        nonlocal headers, current
        responses = await at_once(
            [
                client.patch(
                    "/api/users/me/password",
                    json={
                        "current_password": current,
                        "new_password": f"password {number}.{n}",
                    },
                    headers=headers,
                )
                for n in range(CROWD)
            ]
        )
        winner = winner_of(responses)
        current = f"password {number}.{winner}"
        await login_user(client, "ada@example.com", current)
        headers = {
            "Authorization": f"Bearer {responses[winner].json()['access_token']}"
        }
        seen = count_responses(responses)
        # Later requests fail because of a revoked token or a changed password.
        late = seen[ENDED] + seen[400, "Current password is incorrect"]
        return seen[200, ""], late

    outcomes = [await once(number) for number in rounds]

    judge("changes of one password", outcomes, (1, CROWD - 1))


async def test_either_reset_or_password_change_wins(
    client: AsyncClient, rounds: range, judge: RaceRecorder
) -> None:
    headers = await sign_up(client, "ada")
    user_id = await get_user_id(client, headers)
    current = PASSWORD

    async def once(number: int) -> Outcome:
        nonlocal current
        token = await login_user(client, "ada@example.com", current)
        await store_reset_token(user_id, f"token {number}")
        passwords = [f"password {number}.{n}" for n in range(CROWD)]
        responses = await at_once(
            [
                client.patch(
                    "/api/users/me/password",
                    json={"current_password": current, "new_password": password},
                    headers={"Authorization": f"Bearer {token}"},
                )
                for password in passwords[::2]
            ]
            + [
                client.post(
                    "/api/users/reset-password",
                    json={"token": f"token {number}", "new_password": password},
                )
                for password in passwords[1::2]
            ]
        )
        current = (passwords[::2] + passwords[1::2])[winner_of(responses)]
        await login_user(client, "ada@example.com", current)
        statuses = Counter(response.status_code for response in responses)
        return statuses[200], statuses[400] + statuses[401]

    outcomes = [await once(number) for number in rounds]

    judge("resets and changes of one password", outcomes, (1, CROWD - 1))


async def test_concurrent_reset_requests_leave_one_token(
    client: AsyncClient,
    rounds: range,
    judge: RaceRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def send_nothing(**_mail: str) -> None:
        pass

    monkeypatch.setattr("routers.users.send_password_reset_email", send_nothing)
    await sign_up(client, "ada")

    async def once(_number: int) -> Outcome:
        responses = await at_once(
            [
                client.post(
                    "/api/users/forgot-password", json={"email": "ada@example.com"}
                )
                for _ in range(CROWD)
            ]
        )
        return count_responses(responses), await count(PasswordResetToken)

    outcomes = [await once(number) for number in rounds]

    judge("forgotten passwords", outcomes, (Counter({(202, ""): CROWD}), 1))


# Pictures


async def test_concurrent_uploads_leave_one_referenced_object(
    client: AsyncClient, bucket: Any, rounds: range, judge: RaceRecorder
) -> None:
    headers = await sign_up(client, "ada")
    user_id = await get_user_id(client, headers)

    async def once(_number: int) -> Outcome:
        responses = await at_once(
            [upload(client, headers, user_id) for _ in range(CROWD)]
        )
        return (
            count_responses(responses),
            len(list_objects(bucket)),
            await find_inconsistencies(bucket),
        )

    outcomes = [await once(number) for number in rounds]

    judge("uploads of one user", outcomes, (Counter({(200, ""): CROWD}), 1, []))


async def test_uploads_and_removals_leave_no_orphaned_object(
    client: AsyncClient, bucket: Any, rounds: range, judge: RaceRecorder
) -> None:
    async def once(number: int) -> Outcome:
        headers = await sign_up(client, f"ada{number}")
        user_id = await get_user_id(client, headers)
        path = f"/api/users/{user_id}"
        *others, deletion = await at_once(
            [upload(client, headers, user_id) for _ in range(CROWD // 2)]
            + [
                client.delete(f"{path}/picture", headers=headers)
                for _ in range(CROWD // 2 - 1)
            ]
            + [client.delete(path, headers=headers)]
        )
        strange = {response.status_code for response in others} - {200, 400, 401}
        return (
            deletion.status_code,
            strange,
            list_objects(bucket),
            await find_inconsistencies(bucket),
        )

    outcomes = [await once(number) for number in rounds]

    judge("uploads and removals while deleted", outcomes, (204, set(), [], []))


# Deletion


async def test_account_is_deleted_once_with_all_its_data(
    client: AsyncClient, bucket: Any, rounds: range, judge: RaceRecorder
) -> None:
    async def once(number: int) -> Outcome:
        headers = await sign_up(client, f"ada{number}")
        user_id = await get_user_id(client, headers)
        await upload(client, headers, user_id)
        await create_post(client, headers)
        await store_reset_token(user_id, f"token {number}")
        responses = await at_once(
            [
                client.delete(f"/api/users/{user_id}", headers=headers)
                for _ in range(CROWD)
            ]
        )
        left = [await count(table) for table in (User, Post, PasswordResetToken)]
        return count_responses(responses), left, list_objects(bucket)

    outcomes = [await once(number) for number in rounds]

    expected: Outcome = (expect_one_winner(204, ENDED), [0, 0, 0], [])
    judge("deletions of one account", outcomes, expected)


async def test_post_is_deleted_once(
    client: AsyncClient, rounds: range, judge: RaceRecorder
) -> None:
    headers = await sign_up(client, "ada")

    async def once(_number: int) -> Outcome:
        post = await create_post(client, headers)
        responses = await at_once(
            [
                client.delete(f"/api/posts/{post['id']}", headers=headers)
                for _ in range(CROWD)
            ]
        )
        return count_responses(responses), await count(Post)

    outcomes = [await once(number) for number in rounds]

    expected = (expect_one_winner(204, (404, "Post not found")), 0)
    judge("deletions of one post", outcomes, expected)


async def test_posts_during_account_deletion_are_deleted(
    client: AsyncClient, rounds: range, judge: RaceRecorder
) -> None:
    async def once(number: int) -> Outcome:
        headers = await sign_up(client, f"ada{number}")
        user_id = await get_user_id(client, headers)
        *posts, deletion = await at_once(
            [
                client.post(
                    "/api/posts", json={"content": f"Post {n}"}, headers=headers
                )
                for n in range(CROWD - 1)
            ]
            + [client.delete(f"/api/users/{user_id}", headers=headers)]
        )
        strange = set(count_responses(posts)) - {(201, ""), ENDED}
        return deletion.status_code, strange, await count(Post), await count(User)

    outcomes = [await once(number) for number in rounds]

    judge("posts while their author goes", outcomes, (204, set(), 0, 0))


# Posts


async def test_idempotency_key_publishes_once(
    client: AsyncClient, rounds: range, judge: RaceRecorder
) -> None:
    headers = await sign_up(client, "ada")

    async def once(number: int) -> Outcome:
        responses = await at_once(
            [
                client.post(
                    "/api/posts",
                    json={"content": "Hello"},
                    headers=headers | {"Idempotency-Key": f"key {number}"},
                )
                for _ in range(CROWD)
            ]
        )
        published = [each.json() for each in responses if each.status_code == 201]
        strange = {response.status_code for response in responses} - {201, 409}
        stored = await count(Post) - number
        return len({post["id"] for post in published}), strange, stored

    outcomes = [await once(number) for number in rounds]

    judge("posts with one key", outcomes, (1, set(), 1))


async def test_one_concurrent_edit_of_a_version_wins(
    client: AsyncClient, rounds: range, judge: RaceRecorder
) -> None:
    headers = await sign_up(client, "ada")
    path = f"/api/posts/{(await create_post(client, headers))['id']}"

    async def once(number: int) -> Outcome:
        tag = (await client.get(path)).headers["ETag"]
        responses = await at_once(
            [
                client.patch(
                    path,
                    json={"title": f"{number}.{n}"},
                    headers=headers | {"If-Match": tag},
                )
                for n in range(CROWD)
            ]
        )
        title = (await client.get(path)).json()["title"]
        return count_responses(responses), title == f"{number}.{winner_of(responses)}"

    outcomes = [await once(number) for number in rounds]

    loss = (412, "The post has been modified since you last read it")
    judge("changes of one version", outcomes, (expect_one_winner(200, loss), True))
