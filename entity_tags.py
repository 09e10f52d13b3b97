"""Validators of what is answered, and what requests make depend on them (RFC 9110)."""

import asyncio
import hashlib
import re
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# RFC 9110, section 8.8.3.
TAG = re.compile('(?:W/)?"[!\x23-\x7e\x80-\xff]*"')
CODING = re.compile('-(?:br|gzip)(?=")')
# Some milliseconds of compression.
PART_BYTES = 128 * 1024
# They describe a body, and a 304 has none (section 15.4.5).
OF_A_BODY = ("content-type", "content-length", "content-encoding")


def etag_of(representation: bytes) -> str:
    """The strong tag of a representation: another one whenever a byte differs."""
    return f'"{hashlib.sha256(representation).hexdigest()[:32]}"'


def etag_matches(condition: str, tag: str, *, weakly: bool = False) -> bool:
    """Whether `If-Match`, or weakly `If-None-Match`, names a tag (section 8.8.3.2)."""
    if condition.strip() == "*":
        return True
    listed: list[str] = TAG.findall(condition)
    if weakly:
        return tag.removeprefix("W/") in (each.removeprefix("W/") for each in listed)
    return tag in listed and not tag.startswith("W/")


class EntityTags:
    """Tag what caches may keep, and say how they may keep it (RFC 9111).

    An answer to GET that brings no tag gets one, unless nobody may store it; one that
    says nothing about caches is to be revalidated, or not to be stored at all when it
    is no plain answer to a GET.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_get = scope["method"] == "GET"
        held: Message = {}
        body = b""

        async def hold(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start":
                if _wants_tag(message, is_get=is_get):
                    held = message
                else:
                    await send(message)
            elif not held:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    tag = await _tag_of(body)
                    MutableHeaders(scope=held)["ETag"] = tag
                    await send(held)
                    await send_in_parts(body, send)

        await self.app(scope, receive, hold)


async def _tag_of(body: bytes) -> str:
    """`etag_of`, beside what else is done where it takes a while."""
    if len(body) > PART_BYTES:
        return await asyncio.to_thread(etag_of, body)
    return etag_of(body)


async def send_in_parts(
    body: bytes, send: Send, is_wanted: Callable[[], bool] = lambda: True
) -> None:
    """Send a body with turns for others between its parts: 30 MB compress in a second.

    And never more at once than one may wait to be taken.

    Args:
        body: All of it.
        send: Takes the parts.
        is_wanted: Whether to go on, asked after each part.
    """
    # Whoever is slow to take a part keeps what is here, and no copy of it.
    whole = memoryview(body)
    for start in range(0, len(body) or 1, PART_BYTES):
        end = start + PART_BYTES
        more = end < len(body)
        part = {"body": whole[start:end], "more_body": more}
        await send({"type": "http.response.body", **part})
        if more:
            await asyncio.sleep(0)
            if not is_wanted():
                return


def _wants_tag(start: Message, *, is_get: bool) -> bool:
    """Say what caches may do with an answer; whether it still lacks a tag for that."""
    headers = MutableHeaders(scope=start)
    is_plain = is_get and start["status"] in {200, 304}
    headers.setdefault("Cache-Control", "no-cache" if is_plain else "no-store")
    may_store = "no-store" not in headers["cache-control"]
    return is_get and start["status"] == 200 and may_store and "etag" not in headers


class ConditionalRequests:
    """Answer 304 to whoever has the representation already (section 13.1.2).

    Stands outside the compression: its forms of a representation need tags of their own
    (section 8.8.3.3), while what is inside knows one tag only.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Headers(scope=scope).mutablecopy()
        known = ", ".join(request.getlist("if-none-match"))
        _leave_plain_conditions(request, is_revalidation=bool(known))
        is_known = False

        async def send_unless_known(message: Message) -> None:
            nonlocal is_known
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                _add_coding(headers)
                is_known = (
                    scope["method"] == "GET"
                    and message["status"] == 200
                    and "etag" in headers
                    and etag_matches(known, headers["etag"], weakly=True)
                )
                if is_known:
                    await _send_not_modified(message, send)
            if not is_known:
                await send(message)

        scope = {**scope, "headers": request.raw}
        await self.app(scope, receive, send_unless_known)


def _leave_plain_conditions(request: MutableHeaders, *, is_revalidation: bool) -> None:
    """Leave of the conditions what is decided inside, with the tags known there."""
    if is_revalidation:
        # A date says less than a tag and has no say beside it (section 13.1.3).
        del request["if-none-match"]
        del request["if-modified-since"]
    if "if-match" in request:
        request["if-match"] = CODING.sub("", ", ".join(request.getlist("if-match")))


def _add_coding(headers: MutableHeaders) -> None:
    tag, coding = headers.get("etag"), headers.get("content-encoding")
    if tag and coding:
        headers["ETag"] = f'{tag[:-1]}-{coding}"'


async def _send_not_modified(start: Message, send: Send) -> None:
    headers = MutableHeaders(scope=start)
    for name in OF_A_BODY:
        del headers[name]
    await send({**start, "status": 304, "headers": headers.raw})
    await send({"type": "http.response.body", "body": b""})
