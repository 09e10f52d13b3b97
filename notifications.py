"""Emails that notify users of changes to their accounts."""

from typing import Literal

from fastapi import BackgroundTasks, HTTPException

import rate_limit
from config import settings
from email_utils import send_notification
from rate_limit import RateLimit

AccountChange = Literal["password_changed", "email_changed"]
# The subject, and the path of the page to which the email links.
NOTIFICATIONS: dict[AccountChange, tuple[str, str]] = {
    "password_changed": ("Your password was changed", "/forgot-password"),
    "email_changed": ("Your email address was changed", "/account"),
}


def notify(
    background: BackgroundTasks, change: AccountChange, *, to_email: str, username: str
) -> None:
    """Send a notification after the response."""
    background.add_task(_notify, change, to_email=to_email, username=username)


async def _notify(change: AccountChange, *, to_email: str, username: str) -> None:
    # The email address may belong to someone else: repeated changes must not flood it.
    limit = RateLimit(
        settings.rate_limit_emails_per_account, ("notification", to_email)
    )
    try:
        await rate_limit.hit(limit)
    except HTTPException:
        return
    subject, path = NOTIFICATIONS[change]
    await send_notification(
        change, to_email=to_email, username=username, subject=subject, path=path
    )
