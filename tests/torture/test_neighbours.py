"""What becomes of people while the store of pictures or the mail server fails."""

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from tests.torture.conftest import FULL, Figures, NewSite
from tests.torture.load import (
    LOADED,
    Answer,
    Call,
    Connection,
    Probe,
    p99,
    probing,
    with_form,
    with_json,
    with_picture,
)
from tests.torture.neighbours import (
    Behaviour,
    Bucket,
    Neighbour,
    accepts_mail,
    drips,
    fails,
    forbids,
    hangs,
    obeys_in_silence,
    refuses,
    rejects_mail,
    stored_by_moto,
    works,
)
from tests.torture.site import (
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
# Pictures that are to go wait for a minute, and are looked for every 15 seconds.
HEALING_SECONDS = 90.0
FAILED = b'{"detail":"Failed to upload image. Please try again."}'
BUSY = b'{"detail":"The server is busy. Please try again in a moment."}'
# What lasts as long as the patience of the application is for the long form, but once.
STORE_FAULTS: list[tuple[str, Behaviour]] = [
    ("refuses", refuses),
    ("answers 403", forbids),
    ("answers 500", fails),
    ("hangs", hangs),
    *([("drips", drips), ("obeys in silence", obeys_in_silence)] if FULL else []),
]
MAIL_FAULTS: list[tuple[str, Behaviour]] = [
    ("refuses", refuses),
    ("rejects", rejects_mail),
    ("hangs", hangs),
    ("drips", drips),
]


@pytest.fixture(autouse=True)
def bucket() -> None:
    """No picture is stored in this process, and making a bucket takes a while."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """The real store of pictures."""
    with stored_by_moto(tmp_path_factory.mktemp("store")) as pictures:
        yield pictures


@pytest.fixture(scope="module")
def store(pictures: Bucket) -> Iterator[Neighbour]:
    """What the application takes for the store."""
    with Neighbour(works, pictures.port) as store:
        yield store


@pytest.fixture(scope="module")
def mail_server() -> Iterator[Neighbour]:
    """Where the application sends its mail."""
    with Neighbour(accepts_mail) as mail_server:
        yield mail_server


@pytest.fixture(scope="module")
def site(
    database: str,
    store: Neighbour,
    mail_server: Neighbour,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """The application between its neighbours."""
    site = Site(
        tmp_path_factory.mktemp("site"),
        database,
        **s3_settings(store.port),
        **mail_settings(mail_server.port),
        MAIL_USERNAME="torture",
        MAIL_PASSWORD=SMTP_PASSWORD,
    )
    with running(site):
        yield site
        # It would try for some time yet to send what it could not.
        site.stop(signal.SIGKILL)


def small_picture() -> bytes:
    """A picture that is quickly read."""
    output = BytesIO()
    Image.new("RGB", (20, 20), "teal").save(output, "PNG")
    return output.getvalue()


def upload(person: Person) -> Call:
    """A new picture for somebody."""
    path = f"/api/users/{person.id}/picture"
    return with_picture(path, small_picture(), person.headers)


def ask_at_once(site: Site, calls: list[Call]) -> list[Answer]:
    """The answers to requests that are made at the same time."""

    async def ask(call: Call) -> Answer:
        connection = Connection(site.port)
        answer = await connection.ask(call, patience=60)
        connection.close()
        return answer

    async def ask_all() -> list[Answer]:
        return await asyncio.gather(*map(ask, calls))

    return asyncio.run(ask_all())


def everyday_calls(person: Person) -> list[Call]:
    """What has nothing to do with pictures and mails."""
    post = {"title": "A title", "content": "Some content"}
    return [
        with_form("/api/users/token", username=person.email, password=PASSWORD),
        with_json("POST", "/api/posts", post, person.headers),
        Call("GET", "/api/users/me", person.headers),
        Call("GET", "/login"),
    ]


# The store


@dataclass
class Outcome:
    """What people were answered while the store failed."""

    fault: str
    uploads: list[Answer]
    picture_before: str
    picture_after: str
    picture_deletion: Answer
    account_deletion: Answer
    everyday: list[Answer]
    probe: Probe


@pytest.fixture(
    scope="module", params=STORE_FAULTS, ids=[name for name, _ in STORE_FAULTS]
)
def outcome(request: pytest.FixtureRequest, site: Site, store: Neighbour) -> Outcome:
    """Everything at once that may be asked of a store, while it fails."""
    fault, behaviour = request.param
    names = [f"{fault.replace(' ', '-')}-{number}" for number in range(3)]
    ada, bob, cleo = map(site.sign_up, names)
    for person in (ada, bob, cleo):
        [answer] = ask_at_once(site, [upload(person)])
        assert answer.status == 200, answer.body
    before = picture_of(site, ada)
    calls = [
        Call("DELETE", f"/api/users/{bob.id}/picture", bob.headers),
        Call("DELETE", f"/api/users/{cleo.id}", cleo.headers),
        *everyday_calls(ada),
        *[upload(ada)] * UPLOADS,
    ]
    store.be(behaviour)
    try:
        with probing(site.port, quiet_seconds=0.3) as probe:
            answers = ask_at_once(site, calls)
    finally:
        store.be(works)
    everyday = 2 + len(everyday_calls(ada))
    return Outcome(
        fault,
        uploads=answers[everyday:],
        picture_before=before,
        picture_after=picture_of(site, ada),
        picture_deletion=answers[0],
        account_deletion=answers[1],
        everyday=answers[2:everyday],
        probe=probe,
    )


def picture_of(site: Site, person: Person) -> str:
    """The name of somebody's picture."""
    answer = site.client.get("/api/users/me", headers=person.headers)
    picture: str = answer.json()["image_file"]
    return picture


def test_upload_says_that_it_failed_and_changes_nothing(
    outcome: Outcome, figures: Figures
) -> None:
    told = {(answer.status, answer.body) for answer in outcome.uploads}
    slowest = max(answer.seconds for answer in outcome.uploads)

    # Of fifty at once not all are let in.
    assert (503, FAILED) in told
    assert told <= {(503, FAILED), (503, BUSY)}
    assert outcome.picture_after == outcome.picture_before
    figures.add(
        f"{UPLOADS} uploads at once, the store {outcome.fault}",
        f"503 after {slowest:.1f} s",
        f"{ANSWER_SECONDS:g} s",
        slowest <= ANSWER_SECONDS,
    )


def test_deletions_succeed_all_the_same(outcome: Outcome, figures: Figures) -> None:
    deletions = (outcome.picture_deletion, outcome.account_deletion)
    slowest = max(answer.seconds for answer in deletions)

    assert [answer.status for answer in deletions] == [200, 204]
    figures.add(
        f"deletion of picture and account, the store {outcome.fault}",
        f"done after {slowest:.1f} s",
        f"{ANSWER_SECONDS:g} s",
        slowest <= ANSWER_SECONDS,
    )


def test_nobody_else_notices_the_store(outcome: Outcome, figures: Figures) -> None:
    assert [answer.status for answer in outcome.everyday] == [200, 201, 200, 200]
    assert outcome.probe.statuses() == {200}
    note_reads(figures, outcome.probe, f"{UPLOADS} uploads, the store {outcome.fault}")


def note_reads(figures: Figures, probe: Probe, what: str) -> None:
    """Note how quickly everybody else was answered."""
    slow = p99([sample.seconds for sample in probe.during(LOADED)] or [0.0])
    figures.add(f"p99 of reads, {what}", f"{slow * 1000:.0f} ms", "1 s", slow <= 1)


def test_no_picture_is_forgotten(site: Site, pictures: Bucket) -> None:
    noted = {
        row["filename"] for row in site.sql("SELECT filename FROM discarded_pictures")
    }

    assert pictures.files() <= shown(site) | noted
    assert shown(site) <= pictures.files()


@pytest.mark.skipif(not FULL, reason="takes more than a minute")
def test_no_picture_is_left_over_after_the_store_has_come_back(
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
    """The pictures that people have."""
    rows = site.sql("SELECT image_file FROM users WHERE image_file IS NOT NULL")
    return {row["image_file"] for row in rows}


# The mail


@pytest.mark.parametrize(
    ("fault", "behaviour"), MAIL_FAULTS, ids=[name for name, _ in MAIL_FAULTS]
)
def test_nobody_notices_the_mail_server(
    site: Site,
    mail_server: Neighbour,
    figures: Figures,
    fault: str,
    behaviour: Behaviour,
) -> None:
    ada = site.sign_up(f"mail-{fault}")
    forgotten = with_json("POST", "/api/users/forgot-password", {"email": ada.email})

    mail_server.be(behaviour)
    with probing(site.port, quiet_seconds=0.3) as probe:
        answers = ask_at_once(site, [forgotten] * MAILS)
        time.sleep(12 if FULL else 0.5)
        everyday = ask_at_once(site, everyday_calls(ada))
        held = site.held_connections()
    mail_server.be(accepts_mail)

    assert {answer.status for answer in answers} == {202}
    assert [answer.status for answer in everyday] == [200, 201, 200, 200]
    assert probe.statuses() == {200}
    assert held == 0
    slowest = max(answer.seconds for answer in answers)
    figures.add(
        f"{MAILS} forgotten passwords at once, the mail server {fault}",
        f"202 after {slowest:.1f} s",
        f"{ANSWER_SECONDS:g} s",
        slowest <= ANSWER_SECONDS,
    )
    note_reads(figures, probe, f"the mail server {fault}")


def test_process_ends_in_time_while_the_mail_server_hangs(
    new_site: NewSite, mail_server: Neighbour, figures: Figures, full: bool
) -> None:
    site = new_site(
        **mail_settings(mail_server.port),
        UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN="10" if full else "1",
    )
    process = site.process
    assert process is not None
    ada = site.sign_up("mail-at-the-end")
    forgotten = with_json("POST", "/api/users/forgot-password", {"email": ada.email})
    mail_server.be(hangs)
    ask_at_once(site, [forgotten] * MAILS)
    time.sleep(1)

    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    seconds = time.monotonic() - start
    mail_server.be(accepts_mail)

    assert process.returncode in {0, -signal.SIGTERM}
    figures.add(
        "end of the process while the mail server hangs",
        f"{seconds:.1f} s",
        f"{SHUTDOWN_SECONDS} s",
        seconds <= SHUTDOWN_SECONDS,
    )
