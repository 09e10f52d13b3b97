"""Fills a database with people and posts to look at: `python demo.py`.

It works whether the application runs or not. Everybody in it logs in with the address
and the password that are printed at the end.
"""

import argparse
import asyncio
import random
import sys
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO

from PIL import Image, ImageDraw
from sqlalchemy import make_url, select
from sqlalchemy.ext.asyncio import AsyncSession

from auth import hash_password
from config import settings
from database import AsyncSessionLocal, DatabaseUnavailable, shut_down
from image_utils import process_profile_image, upload_profile_image
from models import Post, User, fold, now

PASSWORD = "demo password"  # noqa: S105 - it is printed, and only local databases get it
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
POSTS = 320
DAYS = 600
BATCH = 40
# Always the same content, so that screenshots can be compared.
SEED = 20


@dataclass(frozen=True)
class Person:
    """Somebody who writes, about what, and the colours of the picture."""

    name: str
    topic: str
    background: str
    clothes: str
    skin: str


PEOPLE = [
    Person("Mara Lindqvist", "garden", "#cfe3d4", "#2f6b4f", "#e8b996"),
    Person("tomasz", "bread", "#f3dcc0", "#8a4b22", "#d9a27c"),
    Person("Ifeoma Okafor", "maps", "#cfdcf0", "#254a80", "#7c4a2d"),
    Person("Jun", "code", "#e3d6ee", "#55367d", "#ecc9a4"),
    Person("Élodie Marchand", "books", "#f4d4d8", "#8c2f45", "#f0cdb0"),
    Person("Ruben van der Meer", "bicycles", "#d8e8ec", "#1d5a66", "#dba988"),
    Person("Soledad", "birds", "#efe8c4", "#6d6420", "#b98058"),
    Person("Priya Raman", "code", "#f7dfcf", "#a04a1c", "#9a6540"),
    Person("Oskar", "garden", "#dfe5d0", "#4b5d23", "#eec3a0"),
    Person("ליאור", "books", "#d5e4e0", "#235f5a", "#cf9a72"),
]

SUBJECTS = {
    "garden": [
        "The tomatoes",
        "A bed of broad beans",
        "The compost heap",
        "Our one pear tree",
        "The rain barrel",
        "Slugs",
        "The cold frame",
        "A row of leeks",
    ],
    "bread": [
        "The sourdough starter",
        "A rye loaf",
        "Steam in a small oven",
        "Stone-ground flour",
        "Overnight proofing",
        "The crust",
        "Flatbread",
        "A dough that is too wet",
    ],
    "maps": [
        "A map of footpaths",
        "Contour lines",
        "The old harbour chart",
        "A street without a name",
        "Colour on maps",
        "The edge of the sheet",
        "Paper maps",
        "A wrong river",
    ],
    "code": [
        "A failing test",
        "The database index",
        "A long function",
        "Reading other people's code",
        "The release on a Friday",
        "An error message",
        "Deleting code",
        "A slow query",
    ],
    "books": [
        "A novel in letters",
        "The second-hand shop",
        "Reading aloud",
        "Margins",
        "A book without chapters",
        "Translations",
        "The library van",
        "Short stories",
    ],
    "bicycles": [
        "A squeaking chain",
        "The ride along the canal",
        "Headwind",
        "A wheel that is not true",
        "Lights in winter",
        "The cargo bike",
        "Cobblestones",
        "A saddle of leather",
    ],
    "birds": [
        "The first swifts",
        "A heron at the pond",
        "Field notes",
        "The dawn chorus",
        "A cheap pair of binoculars",
        "Nest boxes",
        "Gulls",
        "An owl, heard but not seen",
    ],
}

TITLES = [
    "{}",
    "{}, one year later",
    "What I got wrong: {}",
    "{} and other small things",
    "Notes: {}",
    "In praise of patience. {}",
    "{}: a short report",
    "Again: {}",
]

SENTENCES = [
    "{} kept me busy for most of the week.",
    "I had read about it and believed I understood it, which is not the same thing.",
    "The first attempt failed in a way that taught me something.",
    "A neighbour looked over, said nothing, and was right.",
    "It takes longer than one thinks, and less skill.",
    "What helped in the end was to write down what I did, with the date.",
    "There is a version of this that needs special equipment. This is not it.",
    "I measured twice and was still off by a hand's width.",
    "On Tuesday it rained, so there was time to think.",
    "If I did it again I would begin with the part that I was afraid of.",
    "My grandmother did it without a book, and hers came out better.",
    "The cheap solution held for three days, which was two more than expected.",
    "You can skip this step. I did, and came back to it.",
    "Nobody tells you how quiet it is while you wait.",
    "By the weekend I talked of nothing else, for which I apologise.",
    "A photograph would show it better than words, but my hands were dirty.",
    "Next month I will know whether it was worth the effort.",
    "Somebody asked how I know. I do not; I try, and look.",
    "Half of it is knowing when to stop.",
    "It cost four coins and an afternoon.",
    "Then, without any reason that I could find, it simply worked.",
    "I keep the failed ones on a shelf. They are the more interesting ones.",
]

RIGHT_TO_LEFT = (
    "יומן קריאה: ספרים קצרים לערבים ארוכים",
    "השבוע קראתי שלושה ספרים דקים. הראשון נגמר לפני שהתה התקרר.\n\n"
    "השני ביקש סבלנות, והשלישי (תורגם מ-English) החזיר אותה.\n\n"
    "מי שמכיר ספר קצר וטוב, שיכתוב לי.",
)
LONG_WORD = (
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "A word like this one has to fit on a narrow screen, too, and so does\n\n"
    "    an indented line,\n        and one that is indented further.",
)


def is_local() -> bool:
    """Whether the database is on this machine."""
    if settings.database_dsn is None:
        return True
    url = make_url(settings.database_dsn)
    host = str(url.query.get("host", url.host or "localhost"))
    return host in LOCAL_HOSTS or host.startswith("/")


def paragraph(chance: random.Random, subject: str) -> str:
    """Some sentences, of which the one or the other is about the subject."""
    sentences = chance.sample(SENTENCES, chance.randint(2, 6))
    return " ".join(sentence.format(subject) for sentence in sentences)


def text(chance: random.Random, subject: str) -> str:
    """One line, a few paragraphs, or, seldom, a very long piece."""
    kind = chance.random()
    if kind < 0.15:
        return chance.choice(SENTENCES).format(subject)
    length = chance.randint(25, 60) if kind > 0.97 else chance.randint(2, 7)
    return "\n\n".join(paragraph(chance, subject) for _ in range(length))


def portrait(person: Person) -> bytes:
    """A simple picture of a person, as PNG."""
    image = Image.new("RGB", (600, 600), person.background)
    draw = ImageDraw.Draw(image)
    draw.ellipse((90, 400, 510, 860), fill=person.clothes)
    draw.rounded_rectangle((255, 330, 345, 450), 40, fill=person.skin)
    draw.ellipse((190, 120, 410, 380), fill=person.skin)
    draw.pieslice((180, 90, 420, 350), 180, 360, fill=person.clothes)
    output = BytesIO()
    image.save(output, "PNG")
    return output.getvalue()


def progress(what: str, done: int, total: int) -> None:
    """Show how far the work is, on one line."""
    end = "\n" if done == total else ""
    sys.stdout.write(f"\r{what}: {done} of {total}{end}")
    sys.stdout.flush()


async def add_people(db: AsyncSession) -> list[User]:
    """Everybody with a picture."""
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
        progress("People", number, len(PEOPLE))
    db.add_all(users)
    await db.flush()
    return users


async def add_posts(db: AsyncSession, users: list[User]) -> None:
    """Posts of very different length, spread over the past."""
    chance = random.Random(SEED)  # noqa: S311 - it is no secret who writes what
    newest = now()
    for number in range(1, POSTS + 1):
        index = chance.randrange(len(users))
        subject = chance.choice(SUBJECTS[PEOPLE[index].topic])
        age = timedelta(days=DAYS * (1 - number / POSTS), minutes=chance.random())
        title = chance.choice(TITLES).format(subject)
        content = text(chance, subject)
        if number == POSTS - 2:
            title, content = LONG_WORD
        elif number == POSTS - 4:
            title = ""
        elif number == POSTS - 6:
            index, (title, content) = len(users) - 1, RIGHT_TO_LEFT
        db.add(
            Post(
                title=title,
                content=content,
                user_id=users[index].id,
                date_posted=newest - age,
            )
        )
        if number % BATCH == 0:
            await db.flush()
            progress("Posts", number, POSTS)


async def fill() -> str:
    """Add everything; what to tell whoever asked for it."""
    async with AsyncSessionLocal() as db:
        first = select(User.id).where(User.username_key == fold(PEOPLE[0].name))
        if await db.scalar(first) is not None:
            return "The demo content is there already; nothing was added."
        await add_posts(db, await add_people(db))
        # All or nothing: whoever interrupts it can begin again.
        await db.commit()
    return f'Log in as demo1@example.com with the password "{PASSWORD}".'


async def main() -> str:
    """Fill the database, and leave nothing running."""
    try:
        return await fill()
    except DatabaseUnavailable as error:
        raise SystemExit(f"The database cannot be reached: {error}") from None
    finally:
        await shut_down()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--anywhere",
        action="store_true",
        help="also when the database is not on this machine",
    )
    if not parser.parse_args().anywhere and not is_local():
        sys.exit("The database is not on this machine; if you mean it: --anywhere")
    sys.stdout.write(asyncio.run(main()) + "\n")
