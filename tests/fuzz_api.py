"""Fuzz the API with valid and invalid requests from the OpenAPI document.

`python -m tests.fuzz_api`: Schemathesis generates the cases and checks the responses,
anonymous and with an access token at the same time, against one server. Exits with 1
if a response breaks the document, if an operation never succeeds, or if there are too
few cases.

It is here and not in `tools/` because importing `tests.conftest` sets up what it needs:
a temporary database, no rate limits, and the cheapest Argon2 parameters.
"""

import argparse
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from tests.conftest import PASSWORD, auth_header, wait_until_healthy
from tests.databases import free_port

# Do not import `config` before `tests.conftest`.
ROOT = Path(__file__).resolve().parents[1]
RULES = Path(__file__).with_suffix(".toml")
CASES = 10_000
LIMIT_SECONDS = 600
# Operations without parameters soon run out of new cases; the others make up for it.
SURPLUS = 1.05
PEOPLE = ("ada", "bob", "cleo")
POSTS_EACH = 40
# Reset tokens only arrive by email; `tests.test_generated_client` reads one there.
NEVER_SUCCEEDS = {"POST /api/users/reset-password"}


@dataclass
class Site:
    """A server with content, and its users."""

    url: str
    token: str
    users: list[int]
    posts: list[int]
    cursors: list[str]

    @property
    def dictionaries(self) -> str:
        """Return existing values for Schemathesis to draw from (TOML)."""
        values: dict[str, list[Any]] = {
            "users": self.users,
            "posts": self.posts,
            "cursors": self.cursors,
            "tags": ["*"],
            "addresses": [email_of(name) for name in PEOPLE],
            "passwords": [PASSWORD],
        }
        return "".join(
            f"\n[dictionaries.{name}]\nvalues = {json.dumps(entries)}\n"
            for name, entries in values.items()
        )


@dataclass
class Result:
    """The result of one Schemathesis run."""

    name: str
    seconds: float
    exit_status: int
    cases: int
    responses: Counter[tuple[str, int]]


def email_of(name: str) -> str:
    """Return the email address for a name."""
    return f"{name}@example.com"


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Run a server with some content until the context ends."""
    url = f"http://127.0.0.1:{free_port()}"
    # Store pictures as files: the mocked bucket only exists in the test process.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("S3_")
    } | {"VAR_DIR": str(folder), "ACCESS_TOKEN_EXPIRE_MINUTES": "60"}
    run([sys.executable, "-m", "alembic", "upgrade", "head"], environment)
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "main:app", "--port", url.split(":")[-1]],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_healthy(url, server)
        yield fill(url)
    finally:
        server.terminate()
        server.wait()


def run(command: list[str], environment: dict[str, str]) -> None:
    """Run a project command and wait until it ends."""
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)


def fill(url: str) -> Site:
    """Write posts as several users with pictures; the first user makes the requests."""
    picture = Path(__file__).with_name("test_image.jpg").read_bytes()
    site = Site(url, token="", users=[], posts=[], cursors=[])
    for name in PEOPLE:
        user_id, token = sign_up(url, name)
        site.users.append(user_id)
        site.token = site.token or token
        with httpx.Client(base_url=url, headers=auth_header(token)) as client:
            upload = {"file": ("photo.jpg", picture)}
            client.patch(
                f"/api/users/{user_id}/picture", files=upload
            ).raise_for_status()
            for number in range(POSTS_EACH):
                post = client.post("/api/posts", json={"content": f"Post {number}"})
                site.posts.append(post.raise_for_status().json()["id"])
    for path in ("posts", *(f"users/{user_id}/posts" for user_id in site.users)):
        part = httpx.get(f"{url}/api/{path}").raise_for_status().json()
        site.cursors.append(part["next_cursor"])
    return site


def sign_up(url: str, name: str) -> tuple[int, str]:
    """Create an account, log in, and return the id and a token."""
    email = email_of(name)
    account = {"username": name, "email": email, "password": PASSWORD}
    made = httpx.post(f"{url}/api/users", json=account).raise_for_status().json()
    form = {"username": email, "password": PASSWORD}
    login = httpx.post(f"{url}/api/users/token", data=form).raise_for_status().json()
    return made["id"], login["access_token"]


class Run:
    """A Schemathesis process."""

    def __init__(
        self, name: str, site: Site, folder: Path, *, token: str, seed: int, cases: int
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        rules = self.folder / "schemathesis.toml"
        rules.write_text(RULES.read_text() + site.dictionaries)
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.fuzz_hooks",
            "FUZZ_URL": site.url,
            "FUZZ_PASSWORD": PASSWORD,
            "FUZZ_TOKEN": token,
            "FUZZ_OWN_ID": str(site.users[0]),
            "FUZZ_ANSWERS": str(self.folder / "answers.json"),
        }
        options = {
            "--seed": str(seed),
            "--max-examples": str(
                os.environ.get("NEX") or examples_for(site.url, cases)
            ),
            "--report": "json",
            "--report-json-path": str(self.folder / "report.json"),
        }
        self.started = time.monotonic()
        with (self.folder / "output.txt").open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "schemathesis.cli"),
                    *("--config-file", str(rules)),
                    *("run", f"{site.url}/openapi.json", "--no-color"),
                    *(part for option in options.items() for part in option),
                ],
                # Schemathesis writes files into its working directory.
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def finish(self) -> Result:
        """Wait for the process to end and read its result."""
        try:
            exit_status = self.process.wait(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise SystemExit(f"{self.name}: no end after {LIMIT_SECONDS} s") from error
        seconds = time.monotonic() - self.started
        if exit_status:
            sys.stdout.write((self.folder / "output.txt").read_text())
        report = json.loads((self.folder / "report.json").read_text())
        counted = json.loads((self.folder / "answers.json").read_text())
        return Result(
            name=self.name,
            seconds=seconds,
            exit_status=exit_status,
            cases=report["test_cases"]["generated"],
            responses=Counter({(label, status): n for label, status, n in counted}),
        )

    def stop(self) -> None:
        """Stop the process if it is still running."""
        self.process.kill()
        self.process.wait()


def examples_for(url: str, cases: int) -> int:
    """Return how many examples per operation add up to this many cases."""
    paths = httpx.get(f"{url}/openapi.json").raise_for_status().json()["paths"]
    operations = sum(len(path) for path in paths.values())
    return math.ceil(SURPLUS * cases / operations)


def fuzz(site: Site, folder: Path, *, seed: int, cases: int) -> list[Result]:
    """Run both processes at the same time, each with half of the cases."""
    runs: list[Run] = []
    try:
        for name, token in {"anonymous": "", "signed-in": site.token}.items():
            runs.append(
                Run(name, site, folder, token=token, seed=seed, cases=cases // 2)
            )
        return [run.finish() for run in runs]
    finally:
        for run in runs:
            run.stop()


def find_errors(results: list[Result], *, cases: int) -> list[str]:
    """Describe all errors."""
    faults = [
        f"{result.name}: Schemathesis found failures, see above"
        for result in results
        if result.exit_status
    ]
    executed = sum(result.cases for result in results)
    if executed < cases:
        faults.append(f"only {executed:,} of {cases:,} cases were executed")
    responses = sum(
        (result.responses for result in results), Counter[tuple[str, int]]()
    )
    labels = {label for label, _ in responses}
    successful = {label for label, status in responses if status < 300}
    faults += [
        f"{label} never succeeded"
        for label in sorted(labels - successful - NEVER_SUCCEEDS)
    ]
    return faults


def table(results: list[Result]) -> str:
    """Format how often each operation returned each status."""
    lines = []
    for result in results:
        lines.append(f"{result.name}: {result.cases:,} cases, {result.seconds:.0f} s")
        for label in sorted({label for label, _ in result.responses}):
            counts = ", ".join(
                f"{status}: {count}"
                for (of, status), count in sorted(result.responses.items())
                if of == label
            )
            lines.append(f"  {label:<40} {counts}")
    return "\n".join(lines)


def main() -> int:
    """Fuzz the API, print the results, and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES, help="how many at least")
    parser.add_argument("--seed", type=int, help="that of a run to repeat")
    arguments = parser.parse_args()
    seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    repeat = f"python -m tests.fuzz_api --cases {arguments.cases} --seed {seed}"
    sys.stdout.write(f"To repeat this: {repeat}\n")
    sys.stdout.flush()
    # By default, SIGTERM ends Python at once and leaves child processes running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with TemporaryDirectory() as name, running_site(Path(name)) as site:
        results = fuzz(site, Path(name), seed=seed, cases=arguments.cases)
    faults = find_errors(results, cases=arguments.cases)
    sys.stdout.write(f"{table(results)}\n")
    for fault in faults:
        sys.stdout.write(f"FAILED: {fault}\n")
    if faults:
        sys.stdout.write(f"To repeat this: {repeat}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
