"""How often events have occurred in this process, for telemetry.py."""

from collections import Counter

EMAILS_SENT = "blog.emails.sent"
EMAILS_RETRIED = "blog.emails.retried"
EMAILS_DROPPED = "blog.emails.dropped"
RATE_LIMITED = "blog.requests.rate_limited"

counts = Counter(
    {EMAILS_SENT: 0, EMAILS_RETRIED: 0, EMAILS_DROPPED: 0, RATE_LIMITED: 0}
)
