"""The recipe in docs/fork.md."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from config import BASE_DIR
from tests.conftest import ADMIN_URL

PYTEST = ("-m", "pytest", "--quiet", "-p", "no:cacheprovider")
# The tests that the patch adds or changes, and those that fail if a step is missing.
TESTS = (
    "test_website.py",
    "test_users.py::TestSignUp",
    "test_posts.py::TestReadPost",
    "test_response_cache.py::TestListener::test_change_by_another_process",
    "test_migrations.py::TestSchema",
    "test_openapi.py::TestDocument::test_properties_are_described",
    "test_openapi.py::TestDocument::test_inputs_are_bounded",
)


def test_add_field(tmp_path):
    copy_project(tmp_path)
    environment = os.environ | {
        "TEST_DATABASE_URL": ADMIN_URL.render_as_string(hide_password=False)
    }
    patch = str(BASE_DIR / "docs" / "add-field.patch")

    for command in (
        ["git", "apply", "--verbose", patch],
        [sys.executable, "-m", "tools.export_openapi"],
        [sys.executable, *PYTEST, *(f"tests/{name}" for name in TESTS)],
    ):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)


def copy_project(folder: Path) -> None:
    """Copy all files of the project, including changes that aren't committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.check_output(command, cwd=BASE_DIR, text=True)
    for file in files.rstrip("\0").split("\0"):
        source, target = BASE_DIR / file, folder / file
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
