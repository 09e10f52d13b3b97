"""Uploads of invalid, damaged, and expensive pictures.

`pictures.py` generates them. A failed one can be repeated with the same count.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from httpx import AsyncClient

from config import BASE_DIR, settings
from tests.conftest import get_user_id
from tests.stress.conftest import FULL, Figures
from tests.stress.pictures import PHOTOS, WORST, Cost, hostile

ANSWERS = {200, 400, 413}
MAX_SECONDS = 4.0
MAX_SECONDS_OF_A_PHOTO = 0.3
MAX_MEGABYTES = 512

# One per way to approach the limits; all of them take minutes.
SHORT = (
    "JPEG, 39 MP, progressive, CMYK, at full size",
    "PNG, 20 MP, 16-bit RGBA",
    "WebP, 20 MP, 5 MB of notes",
)


async def upload_pictures(
    client: AsyncClient, headers: dict[str, str], pictures: Iterable[tuple[str, bytes]]
) -> list[tuple[int, str]]:
    """Upload the pictures, named like photos; yield statuses and names."""
    path = f"/api/users/{await get_user_id(client, headers)}/picture"
    found = []
    for name, content in pictures:
        file = ("me.jpg", content, "image/jpeg")
        response = await client.patch(path, files={"file": file}, headers=headers)
        found.append((response.status_code, name))
    return found


def measured(folder: Path, content: bytes) -> Cost:
    """Measure the cost of a picture in a new process."""
    file = folder / "picture"
    file.write_bytes(content)
    command = [sys.executable, "-m", "tests.stress.pictures", str(file)]
    output = subprocess.run(command, cwd=BASE_DIR, check=True, stdout=subprocess.PIPE)
    return Cost(**json.loads(output.stdout))


async def test_hostile_picture_is_converted_or_rejected(
    client: AsyncClient, ada: dict[str, str], full: bool, figures: Figures
) -> None:
    pictures = hostile(1000 if full else 60)

    found = await upload_pictures(client, ada, pictures)

    unexpected = [(status, name) for status, name in found if status not in ANSWERS]
    counts = Counter(status for status, _name in found)
    figures.add(
        f"{len(found)} hostile pictures",
        ", ".join(f"{status}: {count}" for status, count in sorted(counts.items())),
        "only 200, 400, 413",
        not unexpected,
    )
    assert unexpected == []
    assert set(counts) >= {200, 400}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of one process")
@pytest.mark.parametrize("name", [name for name in WORST if FULL or name in SHORT])
def test_most_expensive_valid_picture_stays_cheap(
    name: str, figures: Figures, tmp_path: Path
) -> None:
    content = WORST[name]()

    cost = measured(tmp_path, content)

    assert len(content) <= settings.max_upload_size_bytes
    figures.add(
        f"{name}: memory",
        f"{cost.megabytes:.0f} MB",
        f"{MAX_MEGABYTES} MB",
        cost.megabytes <= MAX_MEGABYTES,
    )
    figures.add(
        f"{name}: time",
        f"{cost.seconds:.2f} s",
        f"{MAX_SECONDS} s",
        cost.seconds <= MAX_SECONDS,
    )
    assert cost.megabytes <= MAX_MEGABYTES


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of one process")
@pytest.mark.parametrize("name", PHOTOS)
def test_ordinary_photo_is_cheap(name: str, figures: Figures, tmp_path: Path) -> None:
    cost = measured(tmp_path, PHOTOS[name]())

    figures.add(
        f"{name}: time",
        f"{cost.seconds:.2f} s",
        f"{MAX_SECONDS_OF_A_PHOTO} s",
        cost.seconds <= MAX_SECONDS_OF_A_PHOTO,
    )
    assert cost.megabytes <= MAX_MEGABYTES
