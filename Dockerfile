ARG BASE_IMAGE=python:3.14-slim-bookworm

# Builder. Every dependency is a wheel, so it needs no compiler.
FROM ${BASE_IMAGE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/venv
COPY requirements-otel.txt /tmp/
RUN pip --python /opt/venv/bin/python install \
    --require-hashes --only-binary :all: --requirement /tmp/requirements-otel.txt
WORKDIR /app
COPY . .
RUN python -m compileall -q --invalidation-mode unchecked-hash .

# Production. It contains only the virtual environment and the code.
FROM ${BASE_IMAGE}
ARG VERSION=unknown
LABEL org.opencontainers.image.title="fastapi-blog" \
      org.opencontainers.image.description="A blog with pages and a REST API" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH="/opt/venv/bin:$PATH" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PORT=8080
# uvicorn reads its flags from these variables, whichever command starts it.
# --timeout-keep-alive: longer than the proxy keeps idle connections open (60 s). A proxy
# that sends a request on a connection that uvicorn is closing returns a 502.
# --timeout-graceful-shutdown: slow requests must not delay a deployment. ECS kills the
# task 30 s after SIGTERM.
# --no-server-header: don't advertise the server software.
ENV UVICORN_TIMEOUT_KEEP_ALIVE=75 \
    UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN=10 \
    UVICORN_SERVER_HEADER=false
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin appuser \
    && pip uninstall --yes --quiet --root-user-action ignore pip
WORKDIR /app
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /app /app
# All that the app writes to, so that the root file system can be read-only.
VOLUME ["/tmp"]
# Numeric, so that an orchestrator can verify that the user isn't root.
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/live', timeout=4)"]
# exec: uvicorn replaces the shell, so that it receives SIGTERM.
# --proxy-headers: use the client IP and the scheme that the load balancer reports.
CMD ["sh", "-c", "exec uvicorn main:app --host 0.0.0.0 --port $PORT --proxy-headers --forwarded-allow-ips='*'"]
