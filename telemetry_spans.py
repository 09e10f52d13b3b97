"""Spans without query strings, which may contain reset tokens."""

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider


class QueryRemover(SpanProcessor):
    """Remove the query string from the attributes that FastAPI sets."""

    def on_start(
        self,
        span: Span,
        parent_context: Context | None = None,  # noqa: ARG002 -- the SDK passes it
    ) -> None:
        attributes = span.attributes or {}
        if "url.query" in attributes:
            span.set_attribute("url.query", "REDACTED")
        # If the question mark was encoded, the query is part of the path.
        path = str(attributes.get("url.path", ""))
        if "?" in path:
            span.set_attribute("url.path", path.partition("?")[0])


def create_tracer_provider() -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(QueryRemover())
    return provider
