# Builder: compilers, if a package needs them, stay behind in this stage.
FROM python:3.14-slim-bookworm AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH"
COPY requirements.txt /tmp/requirements.txt
RUN pip install -r /tmp/requirements.txt

# Production: the environment and the code, nothing else, and not as root.
FROM python:3.14-slim-bookworm
ENV PATH="/opt/venv/bin:$PATH" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PORT=8080
# Settings of uvicorn, by the names of its flags; they hold for every command in here.
# --timeout-keep-alive: longer than the load balancer keeps idle connections (60 s), so
# that it never sends a request into one that is just being closed, which is a 502.
# --limit-concurrency: connections beyond it get a 503 at once instead of memory; it is
# far above what one task serves, and below the 1,024 files that a process may open.
# --timeout-graceful-shutdown: who reads slowly does not hold up a deployment; ECS kills
# 30 s after SIGTERM.
# --http: 64 KB of headers and no more, within 30 s. uvicorn by itself keeps as much as a
# connection sends (in three seconds 500 MB), and waits for ever. Connections that ask for
# nothing make room before others are refused.
# --no-server-header: what runs here is nobody's business.
ENV UVICORN_HTTP=bounded_http:BoundedHttp \
    UVICORN_TIMEOUT_KEEP_ALIVE=75 \
    UVICORN_LIMIT_CONCURRENCY=900 \
    UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN=10 \
    UVICORN_SERVER_HEADER=false
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin appuser
WORKDIR /app
COPY --from=builder /opt/venv /opt/venv
COPY . .
# The number of appuser: an orchestrator can tell from it that this is not root.
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
# exec: uvicorn takes the shell's place, so that it gets the signal to stop.
# --proxy-headers: behind the load balancer the client and the scheme come from it.
CMD ["sh", "-c", "exec uvicorn main:app --host 0.0.0.0 --port $PORT --proxy-headers --forwarded-allow-ips='*'"]
