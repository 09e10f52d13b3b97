"""One-line messages for expected startup errors."""

import sys

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class StartupErrorMiddleware:
    """Let the server print expected startup errors as one line, without a traceback."""

    def __init__(self, app: ASGIApp, expected: tuple[type[Exception], ...]) -> None:
        self.app = app
        self.expected = expected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_one_line(message: Message) -> None:
            error = sys.exception()
            if isinstance(error, self.expected) and "message" in message:
                message = {**message, "message": str(error)}
            await send(message)

        is_lifespan = scope["type"] == "lifespan"
        await self.app(scope, receive, send_one_line if is_lifespan else send)
