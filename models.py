"""Tables and constraints, and texts that are derived from rows.

CONTRIBUTING.md lists the files to edit when you add a field.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    Connection,
    DateTime,
    Delete,
    ForeignKey,
    Index,
    MetaData,
    Select,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    delete,
    event,
    func,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, joinedload, mapped_column, relationship, validates

from config import BASE_DIR, settings
from database import Base
from rendering import PostFormat, text_without_markup
from unicode_text import (
    caseless_key,
    normalize_newlines,
    strip_invisible_start,
    truncate,
    without_bidi_controls,
)

MAX_USERNAME_LENGTH = 50
MAX_EMAIL_LENGTH = 120
MAX_BIO_LENGTH = 160
MAX_TITLE_LENGTH = 100
MAX_DISPLAY_TITLE_LENGTH = 60
MAX_EXCERPT_LENGTH = 300
MAX_IDEMPOTENCY_KEY_LENGTH = 255

# NFKC can turn one character, U+FDFA, into 18 characters.
MAX_USERNAME_KEY_LENGTH = 18 * MAX_USERNAME_LENGTH


EPOCH = datetime.fromtimestamp(0, UTC)


def utcnow() -> datetime:
    return datetime.now(UTC)


def picture_path(image_file: str | None) -> str:
    """Return the URL or path of a profile picture, or of the default picture."""
    if image_file is None:
        return "/static/profile_pics/default.jpg"
    return f"{settings.media_url}/profile_pics/{image_file}"


def display_title(title: str, content: str) -> str:
    """Return the title, or the first words of the content of an untitled post."""
    if not title:
        first_words = " ".join(strip_invisible_start(content)[:1000].split())
        title = truncate(first_words, MAX_DISPLAY_TITLE_LENGTH)
    return without_bidi_controls(title)


def excerpt(content: str) -> str:
    text = strip_invisible_start(content)
    start = " ".join(text[: MAX_EXCERPT_LENGTH + 100].split())
    if len(start) <= MAX_EXCERPT_LENGTH:
        # The text is short, or that part contains a lot of whitespace.
        start = " ".join(text.split(maxsplit=MAX_EXCERPT_LENGTH))
    return truncate(start, MAX_EXCERPT_LENGTH)


class User(Base):
    """A user account."""

    __tablename__ = "users"
    __table_args__ = (
        Index("uq_users_lower_username", text("lower(username)"), unique=True),
        Index("uq_users_lower_email", text("lower(email)"), unique=True),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(MAX_USERNAME_LENGTH))
    # lower() depends on the database's locale, and might only convert A to Z. This key
    # covers all of Unicode. Rows that were inserted without this class have no key.
    username_key: Mapped[str | None] = mapped_column(
        String(MAX_USERNAME_KEY_LENGTH), unique=True
    )
    email: Mapped[str] = mapped_column(String(MAX_EMAIL_LENGTH))
    password_hash: Mapped[str] = mapped_column(String(255))
    image_file: Mapped[str | None] = mapped_column(String(255))
    bio: Mapped[str] = mapped_column(
        String(MAX_BIO_LENGTH), default="", server_default=""
    )
    # Access tokens contain this number. Incrementing it revokes all earlier tokens.
    token_version: Mapped[int] = mapped_column(default=0, server_default="0")
    # An operator can deactivate users: they can't log in, but their posts stay.
    is_active: Mapped[bool] = mapped_column(default=True, server_default=true())

    # With lazy="raise", the error for a missing joinedload names the relationship,
    # instead of coming from deep inside the driver. With passive_deletes, the database
    # deletes dependent rows.
    posts: Mapped[list["Post"]] = relationship(
        back_populates="author",
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="raise",
    )
    reset_tokens: Mapped[list["PasswordResetToken"]] = relationship(
        back_populates="user",
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="raise",
    )

    @validates("username")
    def set_username_key(self, _name: str, username: str) -> str:
        # If the username hasn't changed, keep its key, because a migration may have
        # made it unique.
        if username != self.username:
            self.username_key = caseless_key(username)
        return username

    @property
    def image_path(self) -> str:
        return picture_path(self.image_file)

    @classmethod
    def with_username(cls, username: str) -> Select["User"]:
        """Select the user whose username equals this one (see `caseless_key`)."""
        return select(cls).where(
            or_(
                cls.username_key == caseless_key(username),
                func.lower(cls.username) == func.lower(username),
            )
        )

    @classmethod
    def with_reset_token(cls, token_hash: str) -> Select["User"]:
        """Select the user whose unexpired reset token has this hash."""
        return (
            select(cls)
            .join(cls.reset_tokens)
            .where(
                PasswordResetToken.token_hash == token_hash,
                PasswordResetToken.expires_at > utcnow(),
                cls.is_active,
            )
        )

    @classmethod
    def with_email(cls, email: str) -> Select["User"]:
        """Select the user with this email address, which must be in lower case."""
        return select(cls).where(func.lower(cls.email) == email)

    @classmethod
    def active_with_email(cls, email: str) -> Select["User"]:
        """Select the user with this email address, if they are allowed to log in."""
        return cls.with_email(email).where(cls.is_active)


class Post(Base):
    """A blog post, which is deleted together with its author."""

    __tablename__ = "posts"
    __table_args__ = (
        CheckConstraint("format IN ('plain', 'markdown')", name="format"),
        Index("ix_posts_newest", text("date_posted DESC"), text("id DESC")),
        Index(
            "ix_posts_user_newest", "user_id", text("date_posted DESC"), text("id DESC")
        ),
        Column(
            "search",
            TSVECTOR,
            Computed("search_vector(title::text, content)", persisted=True),
        ),
        Index("ix_posts_search", "search", postgresql_using="gin"),
    )
    # Only the database reads this column, which can be as large as the content.
    __mapper_args__ = {"exclude_properties": ["search"]}  # noqa: RUF012 -- not a field

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(MAX_TITLE_LENGTH))
    content: Mapped[str] = mapped_column(Text)
    format: Mapped[PostFormat] = mapped_column(
        Text, default="plain", server_default="plain"
    )
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    date_posted: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=utcnow, server_default=func.now()
    )
    date_updated: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # The specification requires this column, but nothing counts likes yet.
    likes: Mapped[int] = mapped_column(default=0, server_default="0")

    author: Mapped["User"] = relationship(back_populates="posts", lazy="raise")

    @property
    def display_title(self) -> str:
        return display_title(self.title, self.text_without_markup)

    @property
    def excerpt(self) -> str:
        return excerpt(self.text_without_markup)

    @property
    def text_without_markup(self) -> str:
        return text_without_markup(self.content, self.format)

    def edit(
        self, *, title: str | None, content: str | None, post_format: PostFormat | None
    ) -> None:
        """Change the title, the content and the format. None leaves a value unchanged.

        A change that only affects line endings is ignored, because browsers convert
        CRLF to LF.
        """
        title = self.title if title is None else title
        content = self.content if content is None else content
        post_format = post_format or self.format
        old, new = normalize_newlines(self.content), normalize_newlines(content)
        if (title, new, post_format) != (self.title, old, self.format):
            self.title, self.content, self.format = title, content, post_format
            self.date_updated = utcnow()

    @classmethod
    def with_id(cls, post_id: int) -> Select["Post"]:
        """Select the post with this id, and its author."""
        author = joinedload(cls.author, innerjoin=True)
        return select(cls).options(author).where(cls.id == post_id)


class PostCount(Base):
    """One shard of the post count of an author, or of the whole site (`user_id` 0).

    Triggers maintain the counts (`alembic/sql/0007_count_posts.sql`).
    """

    __tablename__ = "post_counts"

    user_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    shard: Mapped[int] = mapped_column(
        SmallInteger, primary_key=True, autoincrement=False
    )
    posts: Mapped[int]


@event.listens_for(Base.metadata, "before_create")
def create_functions(_metadata: MetaData, connection: Connection, **_: Any) -> None:
    """Add the functions that columns need before `create_all` creates the tables."""
    run_sql_files(connection, "*_search.sql")


@event.listens_for(Base.metadata, "after_create")
def create_triggers(_metadata: MetaData, connection: Connection, **_: Any) -> None:
    """Add the triggers of the migrations after `create_all` has created the tables."""
    run_sql_files(connection, "*.sql")


def run_sql_files(connection: Connection, pattern: str) -> None:
    for file in sorted(BASE_DIR.glob(f"alembic/sql/{pattern}")):
        for statement in file.read_text(encoding="utf-8").split("\n\n"):
            connection.exec_driver_sql(statement)


class IdempotencyKey(Base):
    """A key that a client sends with a new post, so that it can retry safely.

    See draft-ietf-httpapi-idempotency-key-header.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (UniqueConstraint("user_id", "key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(MAX_IDEMPOTENCY_KEY_LENGTH))
    # SHA-256 of the request, in hex.
    fingerprint: Mapped[str] = mapped_column(String(64))
    # Null once the post has been deleted.
    post_id: Mapped[int | None] = mapped_column(
        ForeignKey("posts.id", ondelete="SET NULL"), index=True
    )
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=utcnow, server_default=func.now(), index=True
    )


class OrphanedPicture(Base):
    """The scheduled deletion of a picture that may not have been uploaded yet."""

    __tablename__ = "discarded_pictures"

    id: Mapped[int] = mapped_column(primary_key=True)
    filename: Mapped[str] = mapped_column(String(255), unique=True)
    delete_after: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class PasswordResetToken(Base):
    """A single-use password reset token. Only its hash is stored."""

    __tablename__ = "password_reset_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=utcnow, server_default=func.now()
    )

    user: Mapped["User"] = relationship(back_populates="reset_tokens", lazy="raise")

    @classmethod
    def deletion_for(cls, user_id: int) -> Delete:
        """Return a statement that deletes a user's reset tokens."""
        return delete(cls).where(cls.user_id == user_id)
