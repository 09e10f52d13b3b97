"""Race conditions between concurrent requests."""

import asyncio
from collections import Counter
from datetime import timedelta
from io import BytesIO
from typing import Any

import pytest
from httpx import AsyncClient, Response
from PIL import Image
from sqlalchemy import func, select

from auth import hash_reset_token
from database import AsyncSessionLocal
from models import PasswordResetToken, Post, User, utcnow
from tests.conftest import (
    PASSWORD,
    create_post,
    get_user_id,
    list_objects,
    login_user,
    sign_up,
)

CROWD = 20


def count_responses(responses: list[Response]) -> Counter[tuple[int, str]]:
    """Count the responses by status and `detail`."""
    return Counter(
        (response.status_code, response.json().get("detail", ""))
        if response.content
        else (response.status_code, "")
        for response in responses
    )


async def count(model: type[Any]) -> int:
    """Return how many rows a table has."""
    async with AsyncSessionLocal() as session:
        return await session.scalar(select(func.count(model.id))) or 0


async def upload(
    client: AsyncClient, headers: dict[str, str], user_id: int
) -> Response:
    output = BytesIO()
    Image.new("RGB", (30, 30)).save(output, "PNG")
    return await client.patch(
        f"/api/users/{user_id}/picture",
        files={"file": ("me.png", output.getvalue())},
        headers=headers,
    )


async def sign_ups(client: AsyncClient, users: list[tuple[str, str]]) -> list[Response]:
    """Sign up all users at the same time."""
    return await asyncio.gather(
        *(
            client.post(
                "/api/users",
                json={"username": name, "email": email, "password": PASSWORD},
            )
            for name, email in users
        )
    )


async def test_equal_sign_ups_create_one_user(concurrent_client: AsyncClient) -> None:
    users = [("ada", "ada@example.com")] * CROWD

    responses = await sign_ups(concurrent_client, users)

    assert count_responses(responses) == {
        (201, ""): 1,
        (400, "Username already exists"): CROWD - 1,
    }
    assert await count(User) == 1


async def test_sign_ups_differing_in_case_create_one_user(
    concurrent_client: AsyncClient,
) -> None:
    names = ["Éva", "éVA"] * (CROWD // 2)
    users = [(name, f"{number}@example.com") for number, name in enumerate(names)]

    responses = await sign_ups(concurrent_client, users)

    assert count_responses(responses) == {
        (201, ""): 1,
        (400, "Username already exists"): CROWD - 1,
    }


async def test_sign_ups_with_one_email_create_one_user(
    concurrent_client: AsyncClient,
) -> None:
    users = [(f"ada{number}", "ada@example.com") for number in range(CROWD)]

    responses = await sign_ups(concurrent_client, users)

    assert count_responses(responses) == {
        (201, ""): 1,
        (400, "Email already registered"): CROWD - 1,
    }


async def test_different_sign_ups_all_succeed(concurrent_client: AsyncClient) -> None:
    users = [(f"ada{number}", f"{number}@example.com") for number in range(CROWD)]

    responses = await sign_ups(concurrent_client, users)

    assert count_responses(responses) == {(201, ""): CROWD}


async def test_reset_token_works_once(concurrent_client: AsyncClient) -> None:
    headers = await sign_up(concurrent_client, "ada")
    async with AsyncSessionLocal() as session:
        session.add(
            PasswordResetToken(
                user_id=await get_user_id(concurrent_client, headers),
                token_hash=hash_reset_token("a-token"),
                expires_at=utcnow() + timedelta(hours=1),
            )
        )
        await session.commit()

    responses = await asyncio.gather(
        *(
            concurrent_client.post(
                "/api/users/reset-password",
                json={"token": "a-token", "new_password": f"password {number}"},
            )
            for number in range(CROWD)
        )
    )

    assert count_responses(responses) == {
        (200, ""): 1,
        (400, "Invalid or expired reset token"): CROWD - 1,
    }
    winner = [response.status_code for response in responses].index(200)
    assert await login_user(concurrent_client, "ada@example.com", f"password {winner}")


async def test_concurrent_reset_requests_leave_one_token(
    concurrent_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send_nothing(**_mail: str) -> None:
        pass

    monkeypatch.setattr("routers.users.send_password_reset_email", send_nothing)
    await sign_up(concurrent_client, "ada")

    responses = await asyncio.gather(
        *(
            concurrent_client.post(
                "/api/users/forgot-password", json={"email": "ada@example.com"}
            )
            for _ in range(CROWD)
        )
    )

    assert count_responses(responses) == {(202, ""): CROWD}
    assert await count(PasswordResetToken) == 1


async def test_one_concurrent_password_change_wins(
    concurrent_client: AsyncClient,
) -> None:
    headers = await sign_up(concurrent_client, "ada")

    responses = await asyncio.gather(
        *(
            concurrent_client.patch(
                "/api/users/me/password",
                json={
                    "current_password": PASSWORD,
                    "new_password": f"password {number}",
                },
                headers=headers,
            )
            for number in range(CROWD)
        )
    )

    statuses = [response.status_code for response in responses]
    # Later requests fail because of a revoked token or a changed password.
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 400, 401}
    assert await login_user(
        concurrent_client, "ada@example.com", f"password {statuses.index(200)}"
    )


async def test_concurrent_uploads_leave_one_referenced_object(
    concurrent_client: AsyncClient, bucket: Any
) -> None:
    headers = await sign_up(concurrent_client, "ada")
    user_id = await get_user_id(concurrent_client, headers)

    responses = await asyncio.gather(
        *(upload(concurrent_client, headers, user_id) for _ in range(6))
    )

    user = (await concurrent_client.get("/api/users/me", headers=headers)).json()
    assert count_responses(responses) == {(200, ""): 6}
    assert list_objects(bucket) == [f"profile_pics/{user['image_file']}"]


async def test_upload_and_removal_leave_no_orphaned_object(
    concurrent_client: AsyncClient, bucket: Any
) -> None:
    headers = await sign_up(concurrent_client, "ada")
    user_id = await get_user_id(concurrent_client, headers)
    await upload(concurrent_client, headers, user_id)

    await asyncio.gather(
        *(upload(concurrent_client, headers, user_id) for _ in range(3)),
        *(
            concurrent_client.delete(f"/api/users/{user_id}/picture", headers=headers)
            for _ in range(3)
        ),
    )

    user = (await concurrent_client.get("/api/users/me", headers=headers)).json()
    named = [f"profile_pics/{name}" for name in [user["image_file"]] if name]
    assert list_objects(bucket) == named


async def test_upload_during_account_deletion_leaves_no_object(
    concurrent_client: AsyncClient, bucket: Any
) -> None:
    headers = await sign_up(concurrent_client, "ada")
    user_id = await get_user_id(concurrent_client, headers)

    *uploads, deletion = await asyncio.gather(
        *(upload(concurrent_client, headers, user_id) for _ in range(4)),
        concurrent_client.delete(f"/api/users/{user_id}", headers=headers),
    )

    assert deletion.status_code == 204
    assert {response.status_code for response in uploads} <= {200, 401}
    assert list_objects(bucket) == []


async def test_post_during_account_deletion_is_consistent(
    concurrent_client: AsyncClient,
) -> None:
    headers = await sign_up(concurrent_client, "ada")
    user_id = await get_user_id(concurrent_client, headers)
    post = {"title": "T", "content": "C"}

    first, deletion, *posts = await asyncio.gather(
        concurrent_client.post("/api/posts", json=post, headers=headers),
        concurrent_client.delete(f"/api/users/{user_id}", headers=headers),
        *(
            concurrent_client.post("/api/posts", json=post, headers=headers)
            for _ in range(CROWD - 2)
        ),
    )

    assert deletion.status_code == 204
    assert set(count_responses([first, *posts])) <= {
        (201, ""),
        (401, "Invalid or expired token"),
    }
    assert await count(Post) == 0


@pytest.mark.parametrize(
    ("field", "value", "detail"),
    [
        ("username", "countess", "Username already exists"),
        ("email", "countess@example.com", "Email already registered"),
    ],
)
async def test_one_user_gets_contested_name_or_email(
    concurrent_client: AsyncClient, field: str, value: str, detail: str
) -> None:
    people = [await sign_up(concurrent_client, f"user{n}") for n in range(6)]
    ids = [await get_user_id(concurrent_client, person) for person in people]

    responses = await asyncio.gather(
        *(
            concurrent_client.patch(
                f"/api/users/{user_id}", json={field: value}, headers=person
            )
            for user_id, person in zip(ids, people, strict=True)
        )
    )

    assert count_responses(responses) == {(200, ""): 1, (400, detail): 5}


async def test_swapping_names_causes_no_server_error(
    concurrent_client: AsyncClient,
) -> None:
    ada, bob = [await sign_up(concurrent_client, name) for name in ("ada", "bob")]
    ada_id, bob_id = [await get_user_id(concurrent_client, who) for who in (ada, bob)]

    responses = await asyncio.gather(
        concurrent_client.patch(
            f"/api/users/{ada_id}", json={"username": "bob"}, headers=ada
        ),
        concurrent_client.patch(
            f"/api/users/{bob_id}", json={"username": "ada"}, headers=bob
        ),
    )

    assert {response.status_code for response in responses} <= {200, 400, 503}
    assert await count(User) == 2


async def test_concurrent_renames_of_one_user_all_succeed(
    concurrent_client: AsyncClient,
) -> None:
    headers = await sign_up(concurrent_client, "ada")
    user_id = await get_user_id(concurrent_client, headers)

    responses = await asyncio.gather(
        *(
            concurrent_client.patch(
                f"/api/users/{user_id}",
                json={"username": f"ada{number}"},
                headers=headers,
            )
            for number in range(CROWD)
        )
    )

    assert count_responses(responses) == {(200, ""): CROWD}


async def test_post_is_deleted_once(concurrent_client: AsyncClient) -> None:
    headers = await sign_up(concurrent_client, "ada")
    post = await create_post(concurrent_client, headers)

    responses = await asyncio.gather(
        *(
            concurrent_client.delete(f"/api/posts/{post['id']}", headers=headers)
            for _ in range(CROWD)
        )
    )

    assert count_responses(responses) == {
        (204, ""): 1,
        (404, "Post not found"): CROWD - 1,
    }


async def test_user_is_deleted_once(concurrent_client: AsyncClient) -> None:
    headers = await sign_up(concurrent_client, "ada")
    user_id = await get_user_id(concurrent_client, headers)

    responses = await asyncio.gather(
        *(
            concurrent_client.delete(f"/api/users/{user_id}", headers=headers)
            for _ in range(CROWD)
        )
    )

    assert count_responses(responses) == {
        (204, ""): 1,
        (401, "Invalid or expired token"): CROWD - 1,
    }


async def test_post_update_during_deletion_is_consistent(
    concurrent_client: AsyncClient,
) -> None:
    headers = await sign_up(concurrent_client, "ada")
    path = f"/api/posts/{(await create_post(concurrent_client, headers))['id']}"

    *updates, deletion = await asyncio.gather(
        *(
            concurrent_client.patch(path, json={"title": str(n)}, headers=headers)
            for n in range(10)
        ),
        concurrent_client.delete(path, headers=headers),
    )

    assert deletion.status_code == 204
    assert set(count_responses(updates)) <= {(200, ""), (404, "Post not found")}


async def test_user_update_during_deletion_is_consistent(
    concurrent_client: AsyncClient,
) -> None:
    headers = await sign_up(concurrent_client, "ada")
    path = f"/api/users/{await get_user_id(concurrent_client, headers)}"

    *updates, deletion = await asyncio.gather(
        *(
            concurrent_client.patch(path, json={"username": f"a{n}"}, headers=headers)
            for n in range(10)
        ),
        concurrent_client.delete(path, headers=headers),
    )

    assert deletion.status_code == 204
    assert set(count_responses(updates)) <= {
        (200, ""),
        (401, "Invalid or expired token"),
    }
    assert await count(User) == 0
