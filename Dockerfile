# Builder. Its compilers, which some packages need, don't become part of the final image.
FROM python:3.14-slim-bookworm AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH"
COPY requirements.txt requirements-otel.txt /tmp/
RUN pip install -r /tmp/requirements-otel.txt

# Production. It contains only the virtual environment and the code.
FROM python:3.14-slim-bookworm
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
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin appuser
WORKDIR /app
COPY --from=builder /opt/venv /opt/venv
COPY . .
# Numeric, so that an orchestrator can verify that the user isn't root.
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/live', timeout=4)"]
# exec: uvicorn replaces the shell, so that it receives SIGTERM.
# --proxy-headers: use the client IP and the scheme that the load balancer reports.
CMD ["sh", "-c", "exec uvicorn main:app --host 0.0.0.0 --port $PORT --proxy-headers --forwarded-allow-ips='*'"]
