"""Emails that notify users of changes to their accounts."""

from fastapi import BackgroundTasks, HTTPException

import rate_limit
from config import settings
from email_utils import AccountChange, send_notification
from rate_limit import RateLimit


def notify(
    background: BackgroundTasks, change: AccountChange, *, to_email: str, username: str
) -> None:
    """Send a notification after the response."""
    background.add_task(_notify, change, to_email=to_email, username=username)


async def _notify(change: AccountChange, *, to_email: str, username: str) -> None:
    # The email address may belong to someone else: repeated changes must not flood it.
    limit = RateLimit(settings.rate_limit_emails_per_account, ("note", to_email))
    try:
        await rate_limit.count(limit)
    except HTTPException:
        return
    await send_notification(change, to_email=to_email, username=username)
