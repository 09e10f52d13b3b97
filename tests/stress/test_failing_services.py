"""While S3 or the SMTP server fails, other requests succeed."""

import re
import signal
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import ADMIN_URL
from tests.databases import free_port, scratch_database
from tests.server import PASSWORD, LiveServer, Person
from tests.stress.conftest import Figures
from tests.stress.fault_servers import (
    Behavior,
    FaultServer,
    close,
    drip,
    fail,
    forbid,
    forward,
    hang,
    reject_login,
    reject_recipient,
    smtp,
)
from tests.stress.load import (
    forgotten,
    held_connections,
    login,
    picture,
    reads_during,
    send_together,
    upload,
    wait_for,
)

MOTO_PORT = free_port()
BUCKET_URL = f"http://127.0.0.1:{MOTO_PORT}/pictures"
S3_FAULTS: dict[str, Behavior] = {
    "closes": close,
    "forbids": forbid,
    "fails": fail,
    "hangs": hang,
    "drips": drip,
    "does not respond": partial(forward, MOTO_PORT, responses=False),
}
SMTP_FAULTS: dict[str, Behavior] = {
    "closes": close,
    "rejects login": reject_login,
    "rejects": reject_recipient,
    "hangs": hang,
    "drips": drip,
}
# Without `--stress`: an error, and the worst timeout.
SHORT = {"fails", "rejects", "rejects login", "hangs"}
SECRET = "marked-secret"


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the bucket in this process, whose reset would empty the server's."""


@pytest.fixture(scope="module")
def s3() -> Iterator[FaultServer]:
    """Run S3 with a bucket, behind the server that the app uses."""
    moto = ThreadedMotoServer(port=MOTO_PORT, verbose=False)
    moto.start()
    httpx.put(BUCKET_URL).raise_for_status()
    with FaultServer(partial(forward, MOTO_PORT)) as server:
        yield server
    moto.stop()


@pytest.fixture(scope="module")
def smtp_server() -> Iterator[FaultServer]:
    with FaultServer(smtp) as server:
        yield server


@pytest.fixture(scope="module")
def server(
    s3: FaultServer, smtp_server: FaultServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    with (
        scratch_database(ADMIN_URL) as url,
        LiveServer(
            tmp_path_factory.mktemp("server"),
            database_url=url,
            S3_BUCKET_NAME="pictures",
            S3_ENDPOINT_URL=f"http://127.0.0.1:{s3.port}",
            S3_ACCESS_KEY_ID="test",
            S3_SECRET_ACCESS_KEY=SECRET,
            MAIL_SERVER="127.0.0.1",
            MAIL_PORT=str(smtp_server.port),
            MAIL_USERNAME="test",
            MAIL_PASSWORD=SECRET,
        ) as server,
    ):
        yield server
        # The app would keep trying to send its emails.
        server.stop(signal.SIGKILL)
    assert SECRET not in server.log.read_text()


@pytest.fixture
def fault(request: pytest.FixtureRequest, stress: bool) -> str:
    name: str = request.param
    if name not in SHORT and not stress:
        pytest.skip("only with --stress")
    return name


def requests_without_services(server: LiveServer, ada: Person) -> list[httpx.Request]:
    build, headers = server.client.build_request, ada.headers
    return [
        login(server, ada.email, PASSWORD),
        build("POST", "/api/posts", json={"content": "Hello"}, headers=headers),
        build("GET", "/api/users/me", headers=headers),
        build("GET", "/login"),
    ]


def pictures_of_users(server: LiveServer) -> set[str]:
    rows = server.sql("SELECT image_file FROM users WHERE image_file IS NOT NULL")
    return {row[0] for row in rows}


def stored_pictures() -> set[str]:
    listing = httpx.get(f"{BUCKET_URL}?list-type=2").raise_for_status().text
    return set(re.findall(r"<Key>profile_pics/([^<]+)</Key>", listing))


@pytest.mark.parametrize("fault", S3_FAULTS, indirect=True)
def test_failing_s3(
    fault: str, server: LiveServer, s3: FaultServer, figures: Figures
) -> None:
    ada, bob, eve = (
        server.sign_up(f"{name} {fault}") for name in ("ada", "bob", "eve")
    )
    send_together(server, [upload(server, each, picture()) for each in (ada, bob, eve)])
    before = pictures_of_users(server)
    build = server.client.build_request
    requests = [
        build("DELETE", f"/api/users/{bob.id}/picture", headers=bob.headers),
        build("DELETE", f"/api/users/{eve.id}", headers=eve.headers),
        *requests_without_services(server, ada),
        *[upload(server, ada, picture())] * (50 if figures.stress else 5),
    ]

    s3.change(S3_FAULTS[fault])
    with reads_during(figures, server.url, f"S3 {fault}"):
        exchanges = send_together(server, requests)
    s3.change(partial(forward, MOTO_PORT))

    statuses = [exchange.status for exchange in exchanges]
    assert statuses[:6] == [200, 204, 200, 201, 200, 200]
    assert set(statuses[6:]) == {503}
    # Those of bob and eve are gone, and that of ada is the same.
    assert len(before - pictures_of_users(server)) == 2
    assert pictures_of_users(server) <= before & stored_pictures()
    orphans = server.sql("SELECT filename FROM discarded_pictures")
    assert stored_pictures() - pictures_of_users(server) <= {row[0] for row in orphans}
    slowest = max(exchange.seconds for exchange in exchanges)
    figures.add_seconds(f"slowest response, S3 {fault}", slowest, limit=15)


@pytest.mark.parametrize("fault", SMTP_FAULTS, indirect=True)
def test_failing_smtp_server(
    fault: str, server: LiveServer, smtp_server: FaultServer, figures: Figures
) -> None:
    ada = server.sign_up(f"smtp {fault}")
    requests = requests_without_services(server, ada)
    requests += [forgotten(server, ada.email)] * 30

    smtp_server.change(SMTP_FAULTS[fault])
    with reads_during(figures, server.url, f"SMTP {fault}"):
        exchanges = send_together(server, requests)
    wait_for(lambda: held_connections(server) == 0)
    wait_for(lambda: "not sent" in server.log.read_text())

    assert [each.status for each in exchanges] == [200, 201, 200, 200, *[202] * 30]
    slowest = max(exchange.seconds for exchange in exchanges)
    figures.add_seconds(f"slowest response, SMTP {fault}", slowest, limit=12)
