"""Secrets never appear in the app's output."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from config import BASE_DIR
from tests.conftest import auth_header, new_reset_link, reset_links
from tests.databases import free_port
from tests.stress.load import with_form, with_json, with_picture
from tests.stress.neighbours import (
    FaultyService,
    accepts_mail,
    accepts_without_response,
    fails,
    forbids,
    refuses,
    rejects_logins,
    rejects_mail,
)
from tests.stress.site import (
    DATABASE_PASSWORD,
    MARK,
    PASSWORD,
    SMTP_PASSWORD,
    Person,
    Postgres,
    Site,
    mail_settings,
    production,
    running,
    s3_settings,
)

NEW_PASSWORD = f"{MARK}-new-password"
REDIS_PASSWORD = f"{MARK}-redis"


@pytest.fixture(autouse=True)
def bucket() -> None:
    """Override the mocked bucket: no picture is stored here, and setup is slow."""


@pytest.fixture(scope="module")
def store() -> Iterator[FaultyService]:
    """Run picture storage where every request fails."""
    with FaultyService(forbids) as store:
        yield store


@pytest.fixture(scope="module")
def smtp_server() -> Iterator[FaultyService]:
    """Run an SMTP server that accepts every email."""
    with FaultyService(accepts_mail) as smtp_server:
        yield smtp_server


def test_requests_write_no_secrets_to_output(
    postgres: Postgres, tmp_path: Path
) -> None:
    with running(Site(tmp_path, postgres.url)) as site:
        ada = site.sign_up("ada", PASSWORD)
        tokens = [forget_password(site, ada)]
        make_successful_requests(site, ada, tokens[0])
        tokens.append(forget_password(site, ada))
        make_invalid_requests(site, ada, tokens[1])
        abort_requests(site, ada)

    assert tokens[0] != tokens[1]
    assert site.leaks(*tokens) == []


def forget_password(site: Site, person: Person) -> str:
    """Request a password reset and return the token."""
    outbox = site.var_dir / "outbox"
    known = reset_links(outbox)
    path = "/api/users/forgot-password"
    site.client.post(path, json={"email": person.email}).raise_for_status()
    return new_reset_link(outbox, known).partition("token=")[2]


def make_successful_requests(site: Site, ada: Person, reset_token: str) -> None:
    """Send successful requests that contain secrets."""
    client = site.client
    page = client.get("/reset-password", params={"token": reset_token})
    reset = client.post(
        "/api/users/reset-password",
        json={"token": reset_token, "new_password": PASSWORD},
    )
    headers = auth_header(site.log_in(ada.email))
    change = {"current_password": PASSWORD, "new_password": PASSWORD}
    changed = client.patch("/api/users/me/password", json=change, headers=headers)
    assert [page.status_code, reset.status_code, changed.status_code] == [200] * 3


def make_invalid_requests(site: Site, ada: Person, reset_token: str) -> None:
    """Send secrets where they do not belong, which is rejected."""
    client, headers = site.client, ada.headers
    secrets = {"token": reset_token, "password": PASSWORD, "access_token": ada.token}
    responses = [
        client.get("/api/users/me", headers=headers),
        client.get("/nowhere", params=secrets),
        client.get("/api/posts", params=secrets | {"limit": PASSWORD}),
        client.post("/reset-password", params=secrets),
        client.get("//reset-password", params=secrets),
        client.get("/reset-password/", params=secrets),
        client.get("/api/users/nobody", params=secrets),
        client.post("/api/users", json=secrets | {"username": PASSWORD}),
        client.post("/api/users", content=PASSWORD.encode()),
        client.post("/api/users/token", data={"username": ada.email} | secrets),
        client.post("/api/users/token", json={"username": PASSWORD}),
        client.post(
            "/api/users/reset-password",
            json={"token": reset_token, "new_password": "\0" + PASSWORD},
        ),
        client.patch(
            "/api/users/me/password",
            json={"current_password": PASSWORD, "new_password": NEW_PASSWORD},
            headers={"Authorization": f"Basic {PASSWORD}"},
        ),
    ]
    assert {response.status_code for response in responses} <= {
        *(200, 307, 400, 401, 404, 405, 422),
    }


def abort_requests(site: Site, ada: Person) -> None:
    """Abort requests that contain secrets."""
    headers = auth_header(site.log_in(ada.email))
    for call in (
        with_form("/api/users/token", username=ada.email, password=PASSWORD),
        with_json("POST", "/api/users", {"password": PASSWORD, "username": "bob"}),
        with_picture(f"/api/users/{ada.id}/picture", PASSWORD.encode(), headers),
    ):
        with socket.create_connection(("127.0.0.1", site.port)) as client:
            client.sendall(call.encoded("127.0.0.1")[:-10])
            time.sleep(0.1)


def test_failing_services_cause_no_secrets_in_output(
    postgres: Postgres, store: FaultyService, smtp_server: FaultyService, tmp_path: Path
) -> None:
    site = Site(
        tmp_path,
        postgres.url,
        **s3_settings(store.port),
        **mail_settings(smtp_server.port),
        MAIL_USERNAME="torture",
        MAIL_PASSWORD=SMTP_PASSWORD,
        REDIS_URL=f"redis://:{REDIS_PASSWORD}@127.0.0.1:{free_port()}/0",
        RATE_LIMIT_ENABLED="true",
    )
    with running(site):
        ada = site.sign_up("bob")
        for behavior in (forbids, fails, refuses):
            store.set_behavior(behavior)
            assert upload(site, ada).status_code == 503
        for behavior in (
            rejects_logins,
            rejects_mail,
            refuses,
            accepts_without_response,
        ):
            smtp_server.set_behavior(behavior)
            forgotten = {"email": ada.email}
            asked = site.client.post("/api/users/forgot-password", json=forgotten)
            assert asked.status_code == 202
            time.sleep(0.3)
        postgres.stop()
        form = {"username": ada.email, "password": PASSWORD}
        away = site.client.post("/api/users/token", data=form)
        assert away.status_code == 503
        me = site.client.get("/api/users/me", headers=ada.headers)
        assert me.status_code == 503
        # The app would keep retrying its emails for some time.
        site.stop(signal.SIGKILL)
        postgres.start()

    written = site.written()
    assert "Picture not stored" in written
    assert "not sent" in written
    assert "Database unavailable" in written


def upload(site: Site, person: Person) -> httpx.Response:
    """Try to change a picture."""
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    return site.client.patch(
        f"/api/users/{person.id}/picture",
        files={"file": ("me.png", picture.getvalue())},
        headers=person.headers,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"SECRET_KEY": f"{MARK}-short"}, id="short key"),
        pytest.param({"DATABASE_URL": f"mysql://a:{MARK}@b/c"}, id="no PostgreSQL"),
        pytest.param(
            {"DATABASE_URL": f"postgresql://a:{MARK}@127.0.0.1:1/c"}, id="unreachable"
        ),
    ],
)
def test_invalid_setting_error_omits_its_value(wrong: dict[str, str]) -> None:
    url = {"DATABASE_URL": f"postgresql://a:{DATABASE_PASSWORD}@127.0.0.1:1/b"}

    done = subprocess.run(
        [sys.executable, "-m", "alembic", "current"],
        cwd=BASE_DIR,
        env=production(url, wrong),
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode != 0
    assert MARK not in done.stdout + done.stderr
