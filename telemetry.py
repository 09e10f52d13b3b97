"""Metrics and traces (OpenTelemetry), exported if an OTLP endpoint is configured.

FastAPI creates the spans and metrics of requests. This module configures them, and adds
metrics for the app's own resources. The packages are in requirements-otel.txt.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import os
from collections.abc import Callable, Iterable
from functools import partial

from fastapi.telemetry import TelemetryConfig
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, CallbackT, Observation
from starlette.types import Scope

import auth
from config import HEALTH_PATHS
from counters import counts
from database import connections_in_use
from middleware.response_cache import cache


def telemetry_config() -> TelemetryConfig:
    """Return the options for FastAPI, and register the metrics if they are exported."""
    # Otherwise, FastAPI would look for an exporter on every request.
    if not any(name.startswith("OTEL_EXPORTER_OTLP") for name in os.environ):
        return {"tracing": False, "metrics": False, "logs": False}
    # Imported only now, because it needs the SDK.
    from telemetry_spans import create_tracer_provider

    register_metrics()
    return {
        "tracer_provider": create_tracer_provider(),
        # Logs would contain exception messages, which can include user input.
        "logs": False,
        "operation_spans": False,
        "auto_configure": True,
        "exclude": is_health_check,
    }


def is_health_check(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["path"] in HEALTH_PATHS


def register_metrics() -> None:
    """Register metrics. Their values are only read when they are exported."""
    meter = metrics.get_meter("fastapi-blog")
    gauges: dict[str, Callable[[], float]] = {
        "blog.database.connections_in_use": connections_in_use,
        "blog.passwords.in_progress": lambda: auth.hashing.in_progress,
        "blog.cache.size": lambda: cache.size_bytes,
    }
    for name, read in gauges.items():
        meter.create_observable_gauge(name, [observe(read)])
    meter.create_observable_counter("blog.cache.hits", [observe(lambda: cache.hits)])
    for name in counts:
        meter.create_observable_counter(
            name, [observe(partial(counts.__getitem__, name))]
        )


def observe(read: Callable[[], float]) -> CallbackT:
    def callback(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(read())]

    return callback
