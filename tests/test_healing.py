"""Pictures that nobody needs go, sooner or later; those that somebody needs stay."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from database import AsyncSessionLocal, DatabaseUnavailable
from image_utils import StorageError, upload_profile_image
from models import DiscardedPicture, now
from routers import pictures
from tests.conftest import keys
from tests.test_storage import UPLOAD_FAILED, me, upload

DAY = timedelta(days=1)


async def notes(db: AsyncSession) -> list[str]:
    """The pictures that are noted to go."""
    return list((await db.scalars(select(DiscardedPicture.filename))).all())


async def heal(db: AsyncSession) -> None:
    """Let the time pass after which leftovers go, and let them."""
    await db.execute(update(DiscardedPicture).values(delete_after=now() - DAY))
    await db.commit()
    await pictures.delete_leftovers(db)


@pytest.fixture
def lost_store(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A store that cannot be reached, until the patch is undone."""

    def fail(*_: object) -> None:
        raise StorageError("nobody answers")

    monkeypatch.setattr(pictures, "delete_profile_image", fail)
    monkeypatch.setattr(pictures, "upload_profile_image", fail)
    return monkeypatch


async def test_picture_that_is_kept_is_noted_nowhere(
    client: AsyncClient, ada: dict[str, str], db: AsyncSession
) -> None:
    await upload(client, ada)

    assert await notes(db) == []


async def test_replaced_picture_goes_when_the_store_is_back(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = (await upload(client, ada)).json()["image_file"]

    def fail(_filename: str) -> None:
        raise StorageError("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "delete_profile_image", fail)
        response = await upload(client, ada)
        await heal(db)
    left = keys(bucket)
    await heal(db)

    new = response.json()["image_file"]
    assert response.status_code == 200
    assert sorted(left) == sorted([f"profile_pics/{old}", f"profile_pics/{new}"])
    assert keys(bucket) == [f"profile_pics/{new}"]
    assert await notes(db) == []


async def test_picture_of_a_deleted_account_goes_when_the_store_is_back(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    lost_store: pytest.MonkeyPatch,
) -> None:
    with lost_store.context() as patch:
        patch.setattr(pictures, "upload_profile_image", upload_profile_image)
        user = (await upload(client, ada)).json()
    response = await client.delete(f"/api/users/{user['id']}", headers=ada)
    lost_store.undo()
    await heal(db)

    assert response.status_code == 204
    assert keys(bucket) == []
    assert await notes(db) == []


async def test_picture_that_was_stored_without_our_knowing_goes(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def store_and_fail(content: bytes, filename: str) -> None:
        upload_profile_image(content, filename)
        raise StorageError("the answer was lost")

    monkeypatch.setattr(pictures, "upload_profile_image", store_and_fail)
    response = await upload(client, ada)
    left = keys(bucket)
    await heal(db)

    assert (response.status_code, len(left)) == (503, 1)
    assert response.json() == {"detail": UPLOAD_FAILED}
    assert (await me(client, ada))["image_file"] is None
    assert keys(bucket) == []


async def test_picture_that_a_row_names_survives_an_answer_that_was_lost(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = AsyncSession.commit
    commits: list[None] = []

    async def lose_the_third_answer(session: AsyncSession) -> None:
        await commit(session)
        commits.append(None)
        if len(commits) == 3:
            raise DatabaseUnavailable("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(AsyncSession, "commit", lose_the_third_answer)
        response = await upload(client, ada)
    await heal(db)

    image_file = (await me(client, ada))["image_file"]
    assert response.status_code == 503
    assert keys(bucket) == [f"profile_pics/{image_file}"]


async def test_store_that_hangs_is_given_up(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(pictures, "PUT_SECONDS", 0.05)
    monkeypatch.setattr(pictures, "upload_profile_image", lambda *_: let_go.wait())

    response = await upload(client, ada)
    let_go.set()

    assert response.status_code == 503
    assert response.json() == {"detail": UPLOAD_FAILED}


async def test_deletion_does_not_wait_for_a_store_that_hangs(
    client: AsyncClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    user = (await upload(client, ada)).json()
    let_go = threading.Event()
    monkeypatch.setattr(pictures, "DELETE_SECONDS", 0.05)
    monkeypatch.setattr(pictures, "delete_profile_image", lambda _: let_go.wait())

    response = await client.delete(f"/api/users/{user['id']}/picture", headers=ada)
    let_go.set()

    assert response.status_code == 200
    assert response.json()["image_file"] is None


async def test_upload_for_which_it_is_too_late_changes_nothing(
    client: AsyncClient,
    ada: dict[str, str],
    db: AsyncSession,
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()

    def store_for_too_long(content: bytes, filename: str) -> None:
        upload_profile_image(content, filename)
        asyncio.run_coroutine_threadsafe(heal(db), loop).result()

    monkeypatch.setattr(pictures, "upload_profile_image", store_for_too_long)
    response = await upload(client, ada)

    assert response.status_code == 503
    assert (await me(client, ada))["image_file"] is None
    assert keys(bucket) == []


async def test_two_who_heal_at_once_share_the_work(
    concurrent_client: AsyncClient,
) -> None:
    async with AsyncSessionLocal() as db, AsyncSessionLocal() as other:
        db.add(DiscardedPicture(filename="a.jpg", delete_after=now() - DAY))
        await db.commit()

        claims = [await pictures.claim_leftovers(who) for who in (db, other)]

    assert claims == [["a.jpg"], []]


async def test_healing_goes_on_after_a_failure(
    concurrent_client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    second = asyncio.Event()
    rounds: list[None] = []

    async def fail_once(_db: AsyncSession) -> None:
        rounds.append(None)
        if len(rounds) == 1:
            raise DatabaseUnavailable
        second.set()

    monkeypatch.setattr(pictures, "HEALING_SECONDS", 0.01)
    monkeypatch.setattr(pictures, "delete_leftovers", fail_once)
    healing = asyncio.create_task(pictures.keep_healing())
    async with asyncio.timeout(10):
        await second.wait()
    healing.cancel()

    assert "DatabaseUnavailable" in caplog.text
