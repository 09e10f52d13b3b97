"""Fuzz the API with valid and invalid requests from the OpenAPI document.

Run it with `python -m tests.fuzz_api`. Schemathesis generates requests and checks the
responses in two simultaneous runs, anonymous and with an access token, on one server.
The exit status is 1 if a response violates the document or an operation never succeeds.
"""

import argparse
import json
import math
import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

# Ignore any local .env file. This comes before the imports that read the settings.
os.environ["ENV_FILE"] = os.devnull

from config import BASE_DIR
from tests.databases import admin_url, scratch_database
from tests.server import PASSWORD, LiveServer, Person

PICTURE = Path(__file__).with_name("test_image.jpg")
RULES = Path(__file__).with_suffix(".toml")
TIMEOUT = 1200
# Most operations can only succeed with a token.
SUCCESS_RULES = '[warnings]\nfail-on = ["missing_auth", "missing_test_data"]\n'


def create_person(server: LiveServer, name: str) -> Person:
    """Create a user with a picture and posts."""
    person = server.sign_up(name)
    files = {"file": ("photo.jpg", PICTURE.read_bytes())}
    server.call("PATCH", f"/api/users/{person.id}/picture", person, files=files)
    server.insert_posts(person, 40)
    return person


def rules(server: LiveServer, people: list[Person]) -> str:
    """Return the Schemathesis configuration, with existing ids and valid values."""
    lists = ("posts", *(f"users/{person.id}/posts" for person in people))
    values = {
        "users": [person.id for person in people],
        "posts": [row["id"] for row in server.sql("SELECT id FROM posts")],
        "cursors": [server.call("GET", f"/api/{p}")["next_cursor"] for p in lists],
        "tags": ["*"],
        "addresses": [person.email for person in people],
        "passwords": [PASSWORD],
    }
    dictionaries = (
        f"\n[dictionaries.{name}]\nvalues = {json.dumps(entries)}\n"
        for name, entries in values.items()
    )
    return RULES.read_text() + "".join(dictionaries)


def run(
    options: list[str], folder: Path, config: str, variables: dict[str, str]
) -> int:
    """Run Schemathesis, print its output, and return its exit status."""
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(config)
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", *options],
        # Schemathesis reads its configuration and writes its files here.
        cwd=folder,
        env=os.environ | variables,
        timeout=TIMEOUT,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    sys.stdout.write(f"{folder.name}:\n{done.stdout}\n")
    return done.returncode


def fuzz(folder: Path, *, seed: int, cases: int) -> int:
    """Run half of the cases anonymously and half with a token, at the same time."""
    with (
        scratch_database(admin_url()) as url,
        LiveServer(
            folder, database_url=url, ACCESS_TOKEN_EXPIRE_MINUTES="60"
        ) as server,
        ThreadPoolExecutor() as pool,
    ):
        people = [create_person(server, name) for name in ("ada", "bob", "eve")]
        config = rules(server, people)
        paths = server.call("GET", "/openapi.json")["paths"]
        examples = math.ceil(cases / 2 / sum(map(len, paths.values())))
        options = [
            f"{server.url}/openapi.json",
            f"--seed={seed}",
            f"--max-examples={examples}",
        ]
        variables = {
            "PYTHONPATH": str(BASE_DIR),
            "SCHEMATHESIS_HOOKS": "tests.fuzz_hooks",
            "FUZZ_URL": server.url,
            "FUZZ_OWN_ID": str(people[0].id),
        }
        start = partial(run, options)
        user = variables | {"FUZZ_TOKEN": people[0].token}
        runs = [
            pool.submit(start, folder / "anonymous", config, variables),
            pool.submit(start, folder / "user", config + SUCCESS_RULES, user),
        ]
        return max(each.result() for each in runs)


def main() -> int:
    """Fuzz the API and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", type=int, default=10_000, help="approximate number of cases"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(2**32),
        help="seed of an earlier run to repeat",
    )
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        return fuzz(Path(name), seed=arguments.seed, cases=arguments.cases)


if __name__ == "__main__":
    sys.exit(main())
