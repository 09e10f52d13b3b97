"""Fill a database with demo users and posts: `python -m tools.seed`.

Works whether or not the app is running. All demo users have the same password, which
is printed at the end.
"""

import argparse
import asyncio
import json
import random
import sys
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from sqlalchemy import make_url, select
from sqlalchemy.ext.asyncio import AsyncSession

from auth import hash_password
from config import settings
from database import AsyncSessionLocal, DatabaseUnavailable, dispose_engine
from image_utils import process_profile_image, upload_profile_image
from models import Post, User, utcnow
from unicode_text import caseless_key

PASSWORD = "demo password"  # noqa: S105 -- public password of all demo users
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
POST_COUNT = 320
DAYS = 600
BATCH_SIZE = 40
# With a fixed seed, the content and the screenshots are the same every time.
RANDOM_SEED = 20

DEMO: dict[str, Any] = json.loads(
    Path(__file__).with_name("demo.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Person:
    """A demo user, with the topic of their posts and the colors of their picture."""

    name: str
    topic: str
    background: str
    clothes: str
    skin: str


PEOPLE = [Person(**person) for person in DEMO["people"]]


def is_local() -> bool:
    """Return whether the database runs on this machine."""
    if settings.database_dsn is None:
        return True
    url = make_url(settings.database_dsn)
    host = str(url.query.get("host", url.host or "localhost"))
    return host in LOCAL_HOSTS or host.startswith("/")


def random_paragraph(rng: random.Random, subject: str) -> str:
    """Return a few sentences, some of them about the subject."""
    sentences = rng.sample(DEMO["sentences"], rng.randint(2, 6))
    return " ".join(sentence.format(subject) for sentence in sentences)


def random_content(rng: random.Random, subject: str) -> str:
    """Return one line, a few paragraphs, or (rarely) very long text."""
    kind = rng.random()
    if kind < 0.15:
        sentence: str = rng.choice(DEMO["sentences"])
        return sentence.format(subject)
    length = rng.randint(25, 60) if kind > 0.97 else rng.randint(2, 7)
    return "\n\n".join(random_paragraph(rng, subject) for _ in range(length))


def portrait(person: Person) -> bytes:
    """Draw a simple portrait and return it as a PNG."""
    image = Image.new("RGB", (600, 600), person.background)
    draw = ImageDraw.Draw(image)
    draw.ellipse((90, 400, 510, 860), fill=person.clothes)
    draw.rounded_rectangle((255, 330, 345, 450), 40, fill=person.skin)
    draw.ellipse((190, 120, 410, 380), fill=person.skin)
    draw.pieslice((180, 90, 420, 350), 180, 360, fill=person.clothes)
    output = BytesIO()
    image.save(output, "PNG")
    return output.getvalue()


def show_progress(label: str, done: int, total: int) -> None:
    end = "\n" if done == total else ""
    sys.stdout.write(f"\r{label}: {done} of {total}{end}")
    sys.stdout.flush()


async def add_users(db: AsyncSession) -> list[User]:
    """Add all demo users with their pictures."""
    users = []
    password_hash = await asyncio.to_thread(hash_password, PASSWORD)
    for number, person in enumerate(PEOPLE, 1):
        picture, filename = await asyncio.to_thread(
            process_profile_image, portrait(person)
        )
        await asyncio.to_thread(upload_profile_image, picture, filename)
        users.append(
            User(
                username=person.name,
                email=f"demo{number}@example.com",
                password_hash=password_hash,
                image_file=filename,
            )
        )
        show_progress("Users", number, len(PEOPLE))
    db.add_all(users)
    await db.flush()
    return users


def random_post(rng: random.Random, users: list[User], number: int) -> Post:
    """Create a post. The higher its number, the newer it is."""
    index = rng.randrange(len(users))
    subject = rng.choice(DEMO["subjects"][PEOPLE[index].topic])
    age = timedelta(days=DAYS * (1 - number / POST_COUNT), minutes=rng.random())
    texts = {
        "title": rng.choice(DEMO["titles"]).format(subject),
        "content": random_content(rng, subject),
    }
    # A few of the newest posts have content that tends to break layouts.
    if number == POST_COUNT - 2:
        texts = DEMO["long_word"]
    elif number == POST_COUNT - 4:
        texts["title"] = ""
    elif number == POST_COUNT - 6:
        index, texts = len(users) - 1, DEMO["right_to_left"]
    return Post(**texts, user_id=users[index].id, date_posted=utcnow() - age)


async def add_posts(db: AsyncSession, users: list[User]) -> None:
    """Add posts of various lengths, spread over the past."""
    rng = random.Random(RANDOM_SEED)  # noqa: S311 -- not used for security
    for number in range(1, POST_COUNT + 1):
        db.add(random_post(rng, users, number))
        if number % BATCH_SIZE == 0:
            await db.flush()
            show_progress("Posts", number, POST_COUNT)


async def seed() -> str:
    """Add the demo content unless it already exists, and return a message."""
    async with AsyncSessionLocal() as db:
        first = select(User.id).where(User.username_key == caseless_key(PEOPLE[0].name))
        if await db.scalar(first) is not None:
            return "The database already contains the demo content; nothing was added."
        await add_posts(db, await add_users(db))
        await db.commit()
    return f'Log in as demo1@example.com with the password "{PASSWORD}".'


async def main() -> str:
    """Seed the database, then close all connections."""
    try:
        return await seed()
    except DatabaseUnavailable as error:
        raise SystemExit(f"Database unavailable: {error}") from None
    finally:
        await dispose_engine()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--force",
        action="store_true",
        help="seed the database even if it isn't on this machine",
    )
    if not parser.parse_args().force and not is_local():
        sys.exit("The database isn't on this machine; use --force to seed it anyway")
    sys.stdout.write(asyncio.run(main()) + "\n")
