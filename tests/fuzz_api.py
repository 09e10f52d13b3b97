"""Fuzz the API with valid and invalid requests from the OpenAPI document.

`python -m tests.fuzz_api`: Schemathesis generates the cases and checks the responses,
anonymous and with an access token at the same time, against one server. Exits with 1
if a response breaks the document, if an operation never succeeds, or if there are too
few cases.
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
from typing import NamedTuple

# Ignore any local .env file; importing the server reads the settings.
os.environ["ENV_FILE"] = os.devnull

from config import BASE_DIR
from tests.databases import admin_url, scratch_database
from tests.server import PASSWORD, LiveServer, Person

RULES = Path(__file__).with_suffix(".toml")
PICTURE = Path(__file__).with_name("test_image.jpg")
TIMEOUT = 1200
# Operations without parameters soon run out of new cases; the others make up for it.
SURPLUS = 1.05
# Reset tokens only arrive by email.
NEVER_SUCCEEDS = {"POST /api/users/reset-password"}


class Result(NamedTuple):
    failures: str
    cases: int
    responses: dict[tuple[str, int], int]


def create_person(server: LiveServer, name: str) -> Person:
    """Create a user with a picture and posts."""
    person = server.sign_up(name)
    files = {"file": ("photo.jpg", PICTURE.read_bytes())}
    server.call("PATCH", f"/api/users/{person.id}/picture", person, files=files)
    server.insert_posts(person, 40)
    return person


def rules(server: LiveServer, people: list[Person]) -> str:
    """Return the configuration, with existing values for Schemathesis to draw from."""
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
    server: LiveServer,
    config: str,
    options: list[str],
    folder: Path,
    **variables: str,
) -> Result:
    """Run Schemathesis in a folder of its own."""
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(config)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file"]
    command += ["schemathesis.toml", "run", f"{server.url}/openapi.json"]
    command += ["--report", "json", "--report-json-path", "report.json", *options]
    environment = {
        "PYTHONPATH": str(BASE_DIR),
        "SCHEMATHESIS_HOOKS": "tests.fuzz_hooks",
        "FUZZ_URL": server.url,
        "FUZZ_PASSWORD": PASSWORD,
    }
    done = subprocess.run(
        command,
        # It also writes files into its working directory.
        cwd=folder,
        env=os.environ | environment | variables,
        timeout=TIMEOUT,
        check=False,
        capture_output=True,
        text=True,
    )
    report = json.loads((folder / "report.json").read_text())
    counts = json.loads((folder / "responses.json").read_text())
    return Result(
        done.stdout + done.stderr if done.returncode else "",
        report["test_cases"]["generated"],
        {(label, status): count for label, status, count in counts},
    )


def fuzz(folder: Path, *, seed: int, cases: int) -> list[Result]:
    """Fuzz anonymously and with a token at the same time, with half of the cases."""
    with (
        scratch_database(admin_url()) as url,
        LiveServer(
            folder, database_url=url, ACCESS_TOKEN_EXPIRE_MINUTES="60"
        ) as server,
        ThreadPoolExecutor() as pool,
    ):
        people = [create_person(server, name) for name in ("ada", "bob", "eve")]
        paths = server.call("GET", "/openapi.json")["paths"]
        examples = math.ceil(SURPLUS * cases / 2 / sum(map(len, paths.values())))
        options = ["--seed", str(seed), "--max-examples", str(examples)]
        start = partial(run, server, rules(server, people), options)
        own_id = str(people[0].id)
        tokens = {"anonymous": "", "user": people[0].token}
        runs = [
            pool.submit(start, folder / name, FUZZ_TOKEN=token, FUZZ_OWN_ID=own_id)
            for name, token in tokens.items()
        ]
        return [each.result() for each in runs]


def main() -> int:
    """Fuzz the API, print the results, and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="how many at least")
    parser.add_argument("--seed", type=int, help="that of a run to repeat")
    arguments = parser.parse_args()
    seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    with TemporaryDirectory() as name:
        results = fuzz(Path(name), seed=seed, cases=arguments.cases)
    responses = [response for result in results for response in result.responses]
    successful = {label for label, status in responses if status < 300}
    failed = {label for label, _ in responses} - successful - NEVER_SUCCEEDS
    errors = [result.failures for result in results if result.failures]
    errors += [f"{label} never succeeded" for label in sorted(failed)]
    total = sum(result.cases for result in results)
    if total < arguments.cases:
        errors.append(f"Only {total:,} of {arguments.cases:,} cases were executed")
    lines = [
        f"{label:<40} {status}: {count}"
        for result in results
        for (label, status), count in sorted(result.responses.items())
    ]
    repeat = f"python -m tests.fuzz_api --cases {arguments.cases} --seed {seed}"
    lines += [*errors, f"{total:,} cases. To repeat this: {repeat}\n"]
    sys.stdout.write("\n".join(lines))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
