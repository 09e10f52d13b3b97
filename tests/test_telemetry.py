"""Metrics and traces, exported to a collector in this process."""

import os
import subprocess
import sys

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from config import BASE_DIR
from tests.collector import Exported, collector
from tests.conftest import ADMIN_URL
from tests.databases import scratch_database
from tests.server import LiveServer

SECRET = "marked-secret"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return what the app exports for some requests, by the collector's paths."""
    folder = tmp_path_factory.mktemp("server")
    with (
        collector() as (endpoint, exported),
        scratch_database(ADMIN_URL) as url,
        LiveServer(
            folder, database_url=url, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
        ) as server,
    ):
        server.sign_up("ada")
        server.client.get("/health")
        for _ in range(2):
            server.client.get("/login")
        server.client.post("/api/users/forgot-password", json={"email": SECRET})
        server.client.get(f"/reset-password?token={SECRET}")
        server.client.get(f"/reset-password%3Ftoken={SECRET}")
    return exported


class TestTraces:
    @pytest.fixture
    def spans(self, exported):
        requests = map(ExportTraceServiceRequest.FromString, exported["/v1/traces"])
        return [
            (span.name, {a.key: a.value.string_value for a in span.attributes})
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def test_names(self, spans):
        names = [name for name, _attributes in spans]

        assert names.count("POST /api/users") == 1
        # One of the two responses came from the cache.
        assert names.count("GET /login") == 2
        assert "GET /health" not in names

    def test_queries_are_not_exported(self, spans, exported):
        queries = {attributes.get("url.query") for _name, attributes in spans}

        assert queries == {None, "REDACTED"}

    def test_secrets_are_not_exported(self, exported):
        assert exported.keys() == {"/v1/traces", "/v1/metrics"}
        assert SECRET not in str(exported)


class TestMetrics:
    def test_values(self, exported):
        requests = map(ExportMetricsServiceRequest.FromString, exported["/v1/metrics"])
        values = {
            metric.name: [
                point.as_int or point.as_double
                for point in [*metric.gauge.data_points, *metric.sum.data_points]
            ]
            for request in requests
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

        assert values["blog.cache.hits"] == [1]
        assert values["blog.emails.sent"] == [0]
        assert {
            "http.server.request.duration",
            "blog.database.connections_in_use",
            "blog.passwords.in_progress",
            "blog.cache.size",
            "blog.requests.rate_limited",
            "blog.emails.dropped",
        } <= values.keys()


def test_sdk_is_not_needed_without_endpoint():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL")}
    code = "import main, sys; print('opentelemetry.sdk' in sys.modules)"

    printed = subprocess.check_output(
        [sys.executable, "-c", code], cwd=BASE_DIR, env=environment, text=True
    )

    assert printed == "False\n"
