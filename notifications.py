"""Emails that notify users of changes to their accounts."""

from typing import Literal

from fastapi import HTTPException

import rate_limit
from config import settings
from email_utils import send_email_with_link
from rate_limit import RateLimit

AccountChange = Literal["password_changed", "email_changed"]
# The subject of each email, and the path of the page that it links to.
NOTIFICATIONS: dict[AccountChange, tuple[str, str]] = {
    "password_changed": ("Your password was changed", "/forgot-password"),
    "email_changed": ("Your email address was changed", "/account"),
}


async def notify(change: AccountChange, *, to_email: str, username: str) -> None:
    """Send a notification, unless the email address has reached its limit."""
    # The email address may belong to someone else, so limit how many emails it gets.
    limit = RateLimit(
        settings.rate_limit_emails_per_account, ("notification", to_email)
    )
    try:
        await rate_limit.hit(limit)
    except HTTPException:
        return
    subject, path = NOTIFICATIONS[change]
    await send_email_with_link(
        change, to_email=to_email, username=username, subject=subject, path=path
    )
