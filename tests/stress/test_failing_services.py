"""While S3 or the SMTP server fails, other requests succeed."""

import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from image_utils import DECODE_TIMEOUT
from routers.pictures import UPLOAD_TIMEOUT
from tests.conftest import ADMIN_URL
from tests.databases import scratch_database
from tests.server import PASSWORD, LiveServer, Person
from tests.stress.fault_servers import Behavior, FaultServer, close, drip, hang
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

FAULTS: dict[str, Behavior] = {"closes": close, "hangs": hang, "drips": drip}
# These also run without `--stress`: an immediate error, and a timeout.
SHORT = {"closes", "hangs"}
SECRET = "marked-secret"


@pytest.fixture(scope="module")
def services() -> Iterator[FaultServer]:
    """Run one server in place of both S3 and the SMTP server."""
    with FaultServer(close) as server:
        yield server


@pytest.fixture(scope="module")
def server(
    services: FaultServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    with (
        scratch_database(ADMIN_URL) as url,
        LiveServer(
            tmp_path_factory.mktemp("server"),
            database_url=url,
            S3_BUCKET_NAME="pictures",
            S3_ENDPOINT_URL=f"http://127.0.0.1:{services.port}",
            S3_ACCESS_KEY_ID="test",
            S3_SECRET_ACCESS_KEY=SECRET,
            MAIL_SERVER="127.0.0.1",
            MAIL_PORT=str(services.port),
            MAIL_USERNAME="test",
            MAIL_PASSWORD=SECRET,
        ) as server,
    ):
        yield server
        # Kill the app, which would otherwise retry its emails before it exits.
        server.stop(signal.SIGKILL)
    assert SECRET not in server.log.read_text()


@pytest.fixture(params=FAULTS)
def fault(
    request: pytest.FixtureRequest, services: FaultServer, stress: bool
) -> Iterator[str]:
    """Make S3 and the SMTP server fail, and return the kind of failure."""
    name: str = request.param
    if name not in SHORT and not stress:
        pytest.skip("runs only with --stress")
    services.behavior = FAULTS[name]
    yield name
    services.behavior = close


def requests_without_services(server: LiveServer, ada: Person) -> list[httpx.Request]:
    build, headers = server.client.build_request, ada.headers
    return [
        login(server, ada.email, PASSWORD),
        build("POST", "/api/posts", json={"content": "Hello"}, headers=headers),
        build("GET", "/api/users/me", headers=headers),
        build("GET", "/login"),
    ]


def test_failing_s3(fault, server, figures):
    ada, bob, eve = (
        server.sign_up(f"{name} {fault}") for name in ("ada", "bob", "eve")
    )
    stored = f"'{fault}-' || id"
    server.sql(f"UPDATE users SET image_file = {stored} WHERE id >= {bob.id}")
    build = server.client.build_request
    requests = [
        build("DELETE", f"/api/users/{bob.id}/picture", headers=bob.headers),
        build("DELETE", f"/api/users/{eve.id}", headers=eve.headers),
        *requests_without_services(server, ada),
        *[upload(server, ada, picture())] * (50 if figures.stress else 5),
    ]

    with reads_during(figures, server.url, f"S3 {fault}"):
        exchanges = send_together(server, requests)

    statuses = [exchange.status for exchange in exchanges]
    assert statuses[:6] == [200, 204, 200, 201, 200, 200]
    assert set(statuses[6:]) == {503}
    assert server.sql(f"SELECT FROM users WHERE image_file LIKE '{fault}%'") == []
    orphans = {row[0] for row in server.sql("SELECT filename FROM discarded_pictures")}
    assert {f"{fault}-{bob.id}", f"{fault}-{eve.id}"} <= orphans
    slowest = max(exchange.seconds for exchange in exchanges)
    # An upload may have to wait for the decoder, and then for S3.
    limit = DECODE_TIMEOUT + UPLOAD_TIMEOUT
    figures.add_seconds(f"slowest response, S3 {fault}", slowest, limit=limit)


def test_failing_smtp_server(fault, server, figures):
    ada = server.sign_up(f"smtp {fault}")
    requests = requests_without_services(server, ada)
    requests += [forgotten(server, ada.email)] * 30

    with reads_during(figures, server.url, f"SMTP {fault}"):
        exchanges = send_together(server, requests)
    wait_for(lambda: held_connections(server) == 0)
    wait_for(lambda: "not sent" in server.log.read_text())

    assert [each.status for each in exchanges] == [200, 201, 200, 200, *[202] * 30]
    slowest = max(exchange.seconds for exchange in exchanges)
    figures.add_seconds(f"slowest response, SMTP {fault}", slowest, limit=12)


def test_stop_with_waiting_emails(fault, server, figures):
    ada = server.sign_up(f"stopping {fault}")
    # Emails of other tests may be waiting.
    server.stop()
    server.start()
    logged = len(server.log.read_text())
    send_together(server, [forgotten(server, ada.email)] * 3)
    wait_for(lambda: "retrying" in server.log.read_text()[logged:])

    started = time.monotonic()
    server.stop()
    seconds = time.monotonic() - started
    server.start()

    log = server.log.read_text()[logged:]
    assert log.count("Email password_reset not sent: ") == 3
    assert "Traceback" not in log
    assert ada.email not in log
    figures.add_seconds(f"stop with waiting emails, SMTP {fault}", seconds, limit=12)
