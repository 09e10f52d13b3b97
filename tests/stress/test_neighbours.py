"""Failures of the picture storage and the SMTP server."""

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from tests.stress.conftest import FULL, Figures, NewSite
from tests.stress.load import (
    LOADED,
    Call,
    Connection,
    Probe,
    TimedResponse,
    p99,
    probing,
    with_form,
    with_json,
    with_picture,
)
from tests.stress.neighbours import (
    Behavior,
    Bucket,
    FaultyService,
    accepts_mail,
    accepts_without_response,
    fails,
    forbids,
    forwards,
    forwards_without_response,
    refuses,
    rejects_mail,
    responds_slowly,
    running_moto,
)
from tests.stress.site import (
    PASSWORD,
    SHUTDOWN_SECONDS,
    SMTP_PASSWORD,
    Person,
    Site,
    mail_settings,
    running,
    s3_settings,
)

ANSWER_SECONDS = 12.0
UPLOADS = 50 if FULL else 20
MAILS = 30
# Scheduled deletions are due after a minute, and checked every 15 seconds.
HEALING_SECONDS = 90.0
FAILED = b'{"detail":"Failed to upload image. Please try again."}'
BUSY = b'{"detail":"The server is busy. Please try again in a moment."}'
# Tests that wait for the app's timeouts only run in full form, except one.
STORE_FAULTS: list[tuple[str, Behavior]] = [
    ("refuses", refuses),
    ("responds with 403", forbids),
    ("responds with 500", fails),
    ("hangs", accepts_without_response),
    *(
        [
            ("slow", responds_slowly),
            ("sends no response", forwards_without_response),
        ]
        if FULL
        else []
    ),
]
MAIL_FAULTS: list[tuple[str, Behavior]] = [
    ("refuses", refuses),
    ("rejects", rejects_mail),
    ("hangs", accepts_without_response),
    ("slow", responds_slowly),
]


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """Run the real picture storage."""
    with running_moto(tmp_path_factory.mktemp("store")) as pictures:
        yield pictures


@pytest.fixture(scope="module")
def store(pictures: Bucket) -> Iterator[FaultyService]:
    """Run the storage that the app sees."""
    with FaultyService(forwards, pictures.port) as store:
        yield store


@pytest.fixture(scope="module")
def smtp_server() -> Iterator[FaultyService]:
    """Run the SMTP server that the app uses."""
    with FaultyService(accepts_mail) as smtp_server:
        yield smtp_server


@pytest.fixture(scope="module")
def site(
    database: str,
    store: FaultyService,
    smtp_server: FaultyService,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Run the app with these services."""
    site = Site(
        tmp_path_factory.mktemp("site"),
        database,
        **s3_settings(store.port),
        **mail_settings(smtp_server.port),
        MAIL_USERNAME="torture",
        MAIL_PASSWORD=SMTP_PASSWORD,
    )
    with running(site):
        yield site
        # The app would keep retrying failed emails for some time.
        site.stop(signal.SIGKILL)


def small_picture() -> bytes:
    """Return a picture that is decoded quickly."""
    output = BytesIO()
    Image.new("RGB", (20, 20), "teal").save(output, "PNG")
    return output.getvalue()


def upload(person: Person) -> Call:
    """Return an upload request for a user."""
    path = f"/api/users/{person.id}/picture"
    return with_picture(path, small_picture(), person.headers)


def send_concurrently(site: Site, calls: list[Call]) -> list[TimedResponse]:
    """Send requests at the same time and return the responses."""

    async def ask(call: Call) -> TimedResponse:
        connection = Connection(site.port)
        response = await connection.ask(call, patience=60)
        connection.close()
        return response

    async def ask_all() -> list[TimedResponse]:
        return await asyncio.gather(*map(ask, calls))

    return asyncio.run(ask_all())


def everyday_calls(person: Person) -> list[Call]:
    """Return requests without pictures or emails."""
    post = {"title": "A title", "content": "Some content"}
    return [
        with_form("/api/users/token", username=person.email, password=PASSWORD),
        with_json("POST", "/api/posts", post, person.headers),
        Call("GET", "/api/users/me", person.headers),
        Call("GET", "/login"),
    ]


# Picture storage


@dataclass
class Outcome:
    """Responses while the storage failed."""

    fault: str
    uploads: list[TimedResponse]
    picture_before: str
    picture_after: str
    picture_deletion: TimedResponse
    account_deletion: TimedResponse
    everyday: list[TimedResponse]
    probe: Probe


@pytest.fixture(
    scope="module", params=STORE_FAULTS, ids=[name for name, _ in STORE_FAULTS]
)
def outcome(
    request: pytest.FixtureRequest, site: Site, store: FaultyService
) -> Outcome:
    """Send every kind of storage request while the storage fails."""
    fault, behavior = request.param
    names = [f"{fault.replace(' ', '-')}-{number}" for number in range(3)]
    ada, bob, cleo = map(site.sign_up, names)
    for person in (ada, bob, cleo):
        [response] = send_concurrently(site, [upload(person)])
        assert response.status == 200, response.body
    before = picture_of(site, ada)
    calls = [
        Call("DELETE", f"/api/users/{bob.id}/picture", bob.headers),
        Call("DELETE", f"/api/users/{cleo.id}", cleo.headers),
        *everyday_calls(ada),
        *[upload(ada)] * UPLOADS,
    ]
    store.set_behavior(behavior)
    try:
        with probing(site.port, quiet_seconds=0.3) as probe:
            responses = send_concurrently(site, calls)
    finally:
        store.set_behavior(forwards)
    everyday = 2 + len(everyday_calls(ada))
    return Outcome(
        fault,
        uploads=responses[everyday:],
        picture_before=before,
        picture_after=picture_of(site, ada),
        picture_deletion=responses[0],
        account_deletion=responses[1],
        everyday=responses[2:everyday],
        probe=probe,
    )


def picture_of(site: Site, person: Person) -> str:
    """Return the name of a user's picture."""
    response = site.client.get("/api/users/me", headers=person.headers)
    picture: str = response.json()["image_file"]
    return picture


def test_failed_upload_is_an_error_and_changes_nothing(
    outcome: Outcome, figures: Figures
) -> None:
    told = {(response.status, response.body) for response in outcome.uploads}
    slowest = max(response.seconds for response in outcome.uploads)

    # Not all of fifty concurrent requests are accepted.
    assert (503, FAILED) in told
    assert told <= {(503, FAILED), (503, BUSY)}
    assert outcome.picture_after == outcome.picture_before
    figures.add(
        f"{UPLOADS} uploads at once, the store {outcome.fault}",
        f"503 after {slowest:.1f} s",
        f"{ANSWER_SECONDS:g} s",
        slowest <= ANSWER_SECONDS,
    )


def test_deletions_succeed_despite_failing_storage(
    outcome: Outcome, figures: Figures
) -> None:
    deletions = (outcome.picture_deletion, outcome.account_deletion)
    slowest = max(response.seconds for response in deletions)

    assert [response.status for response in deletions] == [200, 204]
    figures.add(
        f"deletion of picture and account, the store {outcome.fault}",
        f"done after {slowest:.1f} s",
        f"{ANSWER_SECONDS:g} s",
        slowest <= ANSWER_SECONDS,
    )


def test_failing_storage_does_not_affect_other_requests(
    outcome: Outcome, figures: Figures
) -> None:
    assert [response.status for response in outcome.everyday] == [200, 201, 200, 200]
    assert outcome.probe.statuses() == {200}
    note_reads(figures, outcome.probe, f"{UPLOADS} uploads, the store {outcome.fault}")


def note_reads(figures: Figures, probe: Probe, what: str) -> None:
    """Record the response times of other requests."""
    slow = p99([sample.seconds for sample in probe.during(LOADED)] or [0.0])
    figures.add(f"p99 of reads, {what}", f"{slow * 1000:.0f} ms", "1 s", slow <= 1)


def test_orphaned_pictures_are_scheduled_for_deletion(
    site: Site, pictures: Bucket
) -> None:
    noted = {
        row["filename"] for row in site.sql("SELECT filename FROM discarded_pictures")
    }

    assert pictures.files() <= shown(site) | noted
    assert shown(site) <= pictures.files()


@pytest.mark.skipif(not FULL, reason="takes more than a minute")
def test_orphaned_pictures_are_deleted_after_recovery(
    site: Site, pictures: Bucket, figures: Figures
) -> None:
    start = time.monotonic()
    before = len(pictures.files() - shown(site))

    while pictures.files() != shown(site):
        assert time.monotonic() < start + HEALING_SECONDS, "they are still there"
        time.sleep(1)

    figures.add(
        "pictures left over after the store has come back",
        f"0 of {before} after {time.monotonic() - start:.0f} s",
        f"{HEALING_SECONDS:g} s",
        True,
    )


def shown(site: Site) -> set[Any]:
    """Return the pictures of all users."""
    rows = site.sql("SELECT image_file FROM users WHERE image_file IS NOT NULL")
    return {row["image_file"] for row in rows}


# Email


@pytest.mark.parametrize(
    ("fault", "behavior"), MAIL_FAULTS, ids=[name for name, _ in MAIL_FAULTS]
)
def test_failing_smtp_server_does_not_affect_requests(
    site: Site,
    smtp_server: FaultyService,
    figures: Figures,
    fault: str,
    behavior: Behavior,
) -> None:
    ada = site.sign_up(f"mail-{fault}")
    forgotten = with_json("POST", "/api/users/forgot-password", {"email": ada.email})

    smtp_server.set_behavior(behavior)
    with probing(site.port, quiet_seconds=0.3) as probe:
        responses = send_concurrently(site, [forgotten] * MAILS)
        time.sleep(12 if FULL else 0.5)
        everyday = send_concurrently(site, everyday_calls(ada))
        held = site.held_connections()
    smtp_server.set_behavior(accepts_mail)

    assert {response.status for response in responses} == {202}
    assert [response.status for response in everyday] == [200, 201, 200, 200]
    assert probe.statuses() == {200}
    assert held == 0
    slowest = max(response.seconds for response in responses)
    figures.add(
        f"{MAILS} forgotten passwords at once, the mail server {fault}",
        f"202 after {slowest:.1f} s",
        f"{ANSWER_SECONDS:g} s",
        slowest <= ANSWER_SECONDS,
    )
    note_reads(figures, probe, f"the mail server {fault}")


def test_process_exits_in_time_while_smtp_server_hangs(
    new_site: NewSite, smtp_server: FaultyService, figures: Figures, full: bool
) -> None:
    site = new_site(
        **mail_settings(smtp_server.port),
        UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN="10" if full else "1",
    )
    process = site.process
    assert process is not None
    ada = site.sign_up("mail-at-the-end")
    forgotten = with_json("POST", "/api/users/forgot-password", {"email": ada.email})
    smtp_server.set_behavior(accepts_without_response)
    send_concurrently(site, [forgotten] * MAILS)
    time.sleep(1)

    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    seconds = time.monotonic() - start
    smtp_server.set_behavior(accepts_mail)

    assert process.returncode in {0, -signal.SIGTERM}
    figures.add(
        "end of the process while the mail server hangs",
        f"{seconds:.1f} s",
        f"{SHUTDOWN_SECONDS} s",
        seconds <= SHUTDOWN_SECONDS,
    )
