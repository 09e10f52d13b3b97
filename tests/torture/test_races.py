"""What holds when fifty want the same at the same instant, again and again.

`tests/test_races.py` has the same in small, and the makers.
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
from tests.conftest import PASSWORD, create_post, keys, login_user, own_id, sign_up
from tests.test_races import answers, count, sign_ups, upload
from tests.torture.conftest import Figures

CROWD = 50
MOST_TRIES = 100
PAUSE_SECONDS = 0.1

Headers = dict[str, str]
Outcome = Any
NAME_TAKEN = (400, "Username already exists")
ADDRESS_TAKEN = (400, "Email already registered")
ENDED = (401, "Invalid or expired token")


class Patient(ASGITransport):
    """What asks again when the site is busy, as a 503 tells clients to.

    On a machine that has much else to do this is no fault; what follows from the race
    must be the same.
    """

    turned_away = 0

    async def handle_async_request(self, request: Request) -> Response:
        """Ask until there is an answer to the question."""
        for _ in range(MOST_TRIES):
            response = await super().handle_async_request(request)
            if response.status_code != 503:
                break
            self.turned_away += 1
            await asyncio.sleep(PAUSE_SECONDS)
        return response


@pytest.fixture
def patient() -> Patient:
    """How the requests of a test reach the application."""
    return Patient(app)


@pytest.fixture
async def client(
    concurrent_client: AsyncClient, patient: Patient
) -> AsyncIterator[AsyncClient]:
    """As `concurrent_client`, which tidies up, and patient."""
    async with AsyncClient(
        transport=patient,
        base_url=concurrent_client.base_url,
        event_hooks=concurrent_client.event_hooks,
    ) as client:
        yield client


@pytest.fixture
def rounds(full: bool) -> range:
    """The numbers of the rounds that each race takes."""
    return range(200 if full else 1)


@dataclass(frozen=True)
class Judge:
    """Who notes how the races went; one went wrong when one round of it did."""

    figures: Figures
    patient: Patient

    def __call__(self, race: str, outcomes: list[Outcome], expected: Outcome) -> None:
        wrong = [outcome for outcome in outcomes if outcome != expected]
        example = f", such as {wrong[0]}" if wrong else ""
        turned_away = self.patient.turned_away
        self.figures.add(
            f"race of {CROWD}: {race}",
            f"{len(wrong)} of {len(outcomes)} rounds went wrong{example}; "
            f"{turned_away} of {len(outcomes) * CROWD:,} requests turned away",
            "0; 0",
            not wrong and not turned_away,
        )
        assert wrong == []


@pytest.fixture
def judge(figures: Figures, patient: Patient) -> Judge:
    """Who notes how a race went."""
    return Judge(figures, patient)


def one_winner(status: int, loss: tuple[int, str]) -> Counter[tuple[int, str]]:
    """The answers when one got what all wanted."""
    return Counter({(status, ""): 1, loss: CROWD - 1})


async def at_once(requests: Sequence[Awaitable[Response]]) -> list[Response]:
    """Send everything before anything is answered."""
    return await asyncio.gather(*requests)


async def people(client: AsyncClient, number: int = CROWD) -> list[tuple[str, Headers]]:
    """That many people: where their accounts are, and their headers."""
    headers = [await sign_up(client, f"user{n}") for n in range(number)]
    return [(f"/api/users/{await own_id(client, each)}", each) for each in headers]


async def names() -> list[str]:
    """What the users are called, in the order in which they signed up."""
    async with AsyncSessionLocal() as session:
        return list(await session.scalars(select(User.username).order_by(User.id)))


async def store_reset_token(user_id: int, token: str) -> None:
    """Make a reset token as if it had been mailed, in place of all others."""
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


async def unsound(bucket: Any) -> list[str]:
    """What is wrong with what is stored, whatever happened."""
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
    if named != set(keys(bucket)):
        faults.append(f"rows name {named}, stored are {keys(bucket)}")
    if orphans:
        faults.append(f"{orphans} posts without an author")
    if (most or 0) > 1:
        faults.append(f"{most} reset tokens of one user")
    return faults


def winner_of(responses: list[Response]) -> int:
    """Who of them won."""
    return [response.is_success for response in responses].index(True)


# Signing up


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
            "sign-ups with one address",
            "ada{round}.{n}",
            "{round}@example.com",
            ADDRESS_TAKEN,
        ),
    ],
)
async def test_one_of_many_sign_ups_wins(
    client: AsyncClient,
    rounds: range,
    judge: Judge,
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
        return answers(responses), await count(User) - number

    outcomes = [await once(number) for number in rounds]

    judge(race, outcomes, (one_winner(201, loss), 1))


# Names


async def test_one_of_many_gets_the_new_name(
    client: AsyncClient, rounds: range, judge: Judge
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
        return answers(responses), (await names()).count(name)

    outcomes = [await once(number) for number in rounds]

    judge("renames to one name", outcomes, (one_winner(200, NAME_TAKEN), 1))


@pytest.mark.parametrize(
    ("race", "whose"),
    [
        # The first takes the name of the second and the other way round, and so on.
        ("names swapped in pairs", [n ^ 1 for n in range(CROWD)]),
        ("names passed on in a ring", [(n + 1) % CROWD for n in range(CROWD)]),
    ],
    ids=["in pairs", "in a ring"],
)
async def test_users_who_swap_their_names_keep_them(
    client: AsyncClient, rounds: range, judge: Judge, race: str, whose: list[int]
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
        return answers(responses), await names() == before

    outcomes = [await once(number) for number in rounds]

    judge(race, outcomes, (Counter({NAME_TAKEN: CROWD}), True))


# Passwords


async def test_reset_token_works_once(
    client: AsyncClient, rounds: range, judge: Judge
) -> None:
    user_id = await own_id(client, await sign_up(client, "ada"))

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
        return answers(responses), await count(PasswordResetToken)

    outcomes = [await once(number) for number in rounds]

    loss = (400, "Invalid or expired reset token")
    judge("uses of one reset token", outcomes, (one_winner(200, loss), 0))


async def test_one_of_many_password_changes_wins(
    client: AsyncClient, rounds: range, judge: Judge
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
        seen = answers(responses)
        # Who comes after the change finds its token ended, or its password.
        late = seen[ENDED] + seen[400, "Current password is incorrect"]
        return seen[200, ""], late

    outcomes = [await once(number) for number in rounds]

    judge("changes of one password", outcomes, (1, CROWD - 1))


async def test_either_the_reset_or_a_change_of_the_password_wins(
    client: AsyncClient, rounds: range, judge: Judge
) -> None:
    headers = await sign_up(client, "ada")
    user_id = await own_id(client, headers)
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


async def test_many_forgotten_passwords_leave_one_token(
    client: AsyncClient,
    rounds: range,
    judge: Judge,
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
        return answers(responses), await count(PasswordResetToken)

    outcomes = [await once(number) for number in rounds]

    judge("forgotten passwords", outcomes, (Counter({(202, ""): CROWD}), 1))


# Pictures


async def test_uploads_leave_the_object_that_the_row_names(
    client: AsyncClient, bucket: Any, rounds: range, judge: Judge
) -> None:
    headers = await sign_up(client, "ada")
    user_id = await own_id(client, headers)

    async def once(_number: int) -> Outcome:
        responses = await at_once(
            [upload(client, headers, user_id) for _ in range(CROWD)]
        )
        return answers(responses), len(keys(bucket)), await unsound(bucket)

    outcomes = [await once(number) for number in rounds]

    judge("uploads of one user", outcomes, (Counter({(200, ""): CROWD}), 1, []))


async def test_uploads_and_removals_leave_no_object_without_an_account(
    client: AsyncClient, bucket: Any, rounds: range, judge: Judge
) -> None:
    async def once(number: int) -> Outcome:
        headers = await sign_up(client, f"ada{number}")
        user_id = await own_id(client, headers)
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
        return deletion.status_code, strange, keys(bucket), await unsound(bucket)

    outcomes = [await once(number) for number in rounds]

    judge("uploads and removals while deleted", outcomes, (204, set(), [], []))


# Going


async def test_account_is_deleted_once_with_all_that_hangs_on_it(
    client: AsyncClient, bucket: Any, rounds: range, judge: Judge
) -> None:
    async def once(number: int) -> Outcome:
        headers = await sign_up(client, f"ada{number}")
        user_id = await own_id(client, headers)
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
        return answers(responses), left, keys(bucket)

    outcomes = [await once(number) for number in rounds]

    expected: Outcome = (one_winner(204, ENDED), [0, 0, 0], [])
    judge("deletions of one account", outcomes, expected)


async def test_post_is_deleted_once(
    client: AsyncClient, rounds: range, judge: Judge
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
        return answers(responses), await count(Post)

    outcomes = [await once(number) for number in rounds]

    expected = (one_winner(204, (404, "Post not found")), 0)
    judge("deletions of one post", outcomes, expected)


async def test_posts_while_their_author_goes_leave_none_behind(
    client: AsyncClient, rounds: range, judge: Judge
) -> None:
    async def once(number: int) -> Outcome:
        headers = await sign_up(client, f"ada{number}")
        user_id = await own_id(client, headers)
        *posts, deletion = await at_once(
            [
                client.post(
                    "/api/posts", json={"content": f"Post {n}"}, headers=headers
                )
                for n in range(CROWD - 1)
            ]
            + [client.delete(f"/api/users/{user_id}", headers=headers)]
        )
        strange = set(answers(posts)) - {(201, ""), ENDED}
        return deletion.status_code, strange, await count(Post), await count(User)

    outcomes = [await once(number) for number in rounds]

    judge("posts while their author goes", outcomes, (204, set(), 0, 0))


# Posts


async def test_key_publishes_once(
    client: AsyncClient, rounds: range, judge: Judge
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


async def test_one_of_many_changes_of_one_version_wins(
    client: AsyncClient, rounds: range, judge: Judge
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
        return answers(responses), title == f"{number}.{winner_of(responses)}"

    outcomes = [await once(number) for number in rounds]

    loss = (412, "The post has been modified since you last read it")
    judge("changes of one version", outcomes, (one_winner(200, loss), True))
