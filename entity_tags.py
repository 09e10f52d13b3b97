"""Validators of what is answered, and what requests make depend on them (RFC 9110)."""

import hashlib
import re
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONDITIONS = ("if-match", "if-none-match")
# RFC 9110, section 8.8.3.
TAG = re.compile('(?:W/)?"[!\x23-\x7e\x80-\xff]*"')
CODING = re.compile('-(?:br|gzip)(?=")')
# They describe a body, and a 304 has none (section 15.4.5).
OF_A_BODY = ("content-type", "content-length", "content-encoding")


def entity_tag(representation: bytes) -> str:
    """The strong tag of a representation: another one whenever a byte differs."""
    return f'"{hashlib.sha256(representation).hexdigest()[:32]}"'


def lists_tag(condition: str, tag: str, *, weakly: bool = False) -> bool:
    """Whether `If-Match`, or weakly `If-None-Match`, names a tag (section 8.8.3.2)."""
    if condition.strip() == "*":
        return True
    listed: list[str] = TAG.findall(condition)
    if weakly:
        return tag.removeprefix("W/") in (each.removeprefix("W/") for each in listed)
    return tag in listed and not tag.startswith("W/")


class EntityTags:
    """Tag what may be kept, and answer 304 to whoever has it already (section 13.1.2).

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
        condition = Headers(scope=scope).get("if-none-match", "")
        held: Message = {}
        body = b""

        async def hold(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start":
                held = message if _prepare(message, is_get=is_get) else {}
                if not held:
                    await send(message)
                return
            if not held:
                await send(message)
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                await _send_tagged(held, body, condition, send)

        await self.app(scope, receive, hold)


def _prepare(start: Message, *, is_get: bool) -> bool:
    """Say what caches may do with an answer; whether it is one to be tagged."""
    headers = MutableHeaders(scope=start)
    is_plain = is_get and start["status"] in {200, 304}
    headers.setdefault("Cache-Control", "no-cache" if is_plain else "no-store")
    # Files are tagged, compared and sent piece by piece by what serves them.
    is_file = "last-modified" in headers
    return start["status"] == 200 and is_get and not is_file and _may_store(headers)


def _may_store(headers: Headers) -> bool:
    return "no-store" not in headers["cache-control"]


async def _send_tagged(start: Message, body: bytes, condition: str, send: Send) -> None:
    headers = MutableHeaders(scope=start)
    tag = headers.setdefault("ETag", entity_tag(body))
    if lists_tag(condition, tag, weakly=True):
        start, body = {**start, "status": 304}, b""
        for name in OF_A_BODY:
            del headers[name]
        start["headers"] = headers.raw
    await send(start)
    await send({"type": "http.response.body", "body": body})


class CodedTags:
    """Give the compressed forms of an answer tags of their own (section 8.8.3.3).

    Stands outside the compression, so that what is inside knows one tag only.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        known = TAG.findall(Headers(scope=scope).get("if-none-match", ""))

        async def send_with_coding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                tag, coding = headers.get("etag"), headers.get("content-encoding")
                if tag and message["status"] == 304:
                    # What the client has keeps the tag that it came with.
                    headers["ETag"] = next(filter(_is_form_of(tag), known), tag)
                elif tag and coding:
                    headers["ETag"] = f'{tag[:-1]}-{coding}"'
            await send(message)

        await self.app(_with_plain_tags(scope), receive, send_with_coding)


def _without_coding(tags: str) -> str:
    return CODING.sub("", tags)


def _is_form_of(tag: str) -> Callable[[str], bool]:
    return lambda listed: lists_tag(_without_coding(listed), tag, weakly=True)


def _with_plain_tags(scope: Scope) -> Scope:
    request = Headers(scope=scope).mutablecopy()
    for name in CONDITIONS:
        if name in request:
            request[name] = _without_coding(", ".join(request.getlist(name)))
    return {**scope, "headers": request.raw}
