"""The app as `make run` starts it, with default settings and over real HTTP."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.conftest import PHOTO
from tests.server import PASSWORD, LiveServer, Person

IMMUTABLE = "public, max-age=31536000, immutable"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Run a server in a directory whose name contains a space."""
    folder = tmp_path_factory.mktemp("live") / "a blog"
    with LiveServer(folder, FRONTEND_URL="") as server:
        yield server


@pytest.fixture(scope="module")
def ada(server: LiveServer) -> Person:
    return server.sign_up("ada")


@pytest.fixture
def picture(server: LiveServer, ada: Person) -> Any:
    """Upload a picture for ada and return its path."""
    file = {"file": ("photo.jpg", PHOTO)}
    user = server.call("PATCH", f"/api/users/{ada.id}/picture", ada, files=file)
    return user["image_path"]


class TestJourney:
    def test_post(self, server, ada):
        post = server.write(ada)
        server.call("PATCH", f"/api/posts/{post['id']}", ada, json={"title": "First"})

        page = server.client.get("/")

        assert server.call("GET", "/api/posts")["posts"][0]["title"] == "First"
        assert "First" in page.text

    def test_password_reset(self, server):
        bob = server.sign_up("bob")
        email = {"email": bob.email}
        server.call("POST", "/api/users/forgot-password", json=email)
        link, _, token = server.wait_for_reset_link().partition("?token=")
        reset = {"token": token, "new_password": "new horse 1"}

        server.call("POST", "/api/users/reset-password", json=reset)

        assert link == f"{server.url}/reset-password"
        assert server.log_in(bob.email, "new horse 1")
        with pytest.raises(AssertionError, match="Incorrect email or password"):
            server.log_in(bob.email, PASSWORD)

    def test_urls_have_the_servers_port(self, server):
        page = server.client.get("/", headers={"Host": "evil.example"}).text
        sitemap = server.client.get("/sitemap.xml").text

        assert f'<link rel="canonical" href="{server.url}/">' in page
        assert f"<loc>{server.url}/sitemaps/pages.xml</loc>" in sitemap


class TestMedia:
    def test_picture(self, server, picture):
        response = server.client.get(picture)

        assert picture.startswith("/media/profile_pics/")
        assert Image.open(BytesIO(response.content)).size == (300, 300)
        assert response.headers["content-type"] == "image/jpeg"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == IMMUTABLE

    def test_deleted_picture(self, server, ada, picture):
        server.call("DELETE", f"/api/users/{ada.id}/picture", ada)

        assert server.client.get(picture).status_code == 404

    @pytest.mark.parametrize(
        "path", ["missing.jpg", "", "..%2f..%2fsecret_key", "a%00.jpg", "a" * 300]
    )
    def test_other_files(self, server, path):
        url = f"/media/profile_pics/{path}"

        response = server.client.get(url, follow_redirects=True)

        assert response.status_code == 404
        assert "max-age" not in response.headers.get("cache-control", "")


class TestRestart:
    def test_killed_server_keeps_posts(self, server, ada):
        acknowledged: list[int] = []
        enough = threading.Barrier(5)

        def write() -> None:
            acknowledged.extend(server.write(ada)["id"] for _ in range(10))
            enough.wait(60)
            with suppress(httpx.TransportError):
                while True:
                    acknowledged.append(server.write(ada)["id"])

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write) for _ in range(4)]
            enough.wait(60)
            server.stop(signal.SIGKILL)
        server.start()

        posts = [server.client.get(f"/api/posts/{number}") for number in acknowledged]
        assert {post.status_code for post in posts} == {200}
        assert [writer.result() for writer in writers] == [None] * 4

    def test_sessions_survive(self, server, ada):
        server.stop()
        server.start()

        assert server.call("GET", "/api/users/me", ada)["id"] == ada.id

    def test_last_process_stops_the_database(self, server):
        pid_file = server.var_dir / "postgres" / "postmaster.pid"
        # This process uses the database, too, but must not stop it.
        current = server.run("-m", "alembic", "current").stdout
        was_running = pid_file.exists()

        server.stop()
        is_running = pid_file.exists()
        server.start()

        assert "(head)" in current
        assert (was_running, is_running) == (True, False)
