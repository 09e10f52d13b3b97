# Everything runs in .venv, which is created on first use and updated when the
# requirements change.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --ignore=tests/e2e --ignore=tests/stress --numprocesses=auto --dist=loadfile \
	--durations=10
SCHEMA := $(BIN)/check-jsonschema --quiet --builtin-schema
COMPILE := $(BIN)/uv pip compile --universal --no-strip-extras --no-annotate --no-header pyproject.toml

.PHONY: run migrate demo test coverage test-e2e stress image-test bench bench-quick lighthouse screenshots openapi fuzz-api ci audit check format lint types lock clean

run: migrate ## Serve http://127.0.0.1:8000 with auto-reload
	@echo "Starting http://$(HOST):$(PORT) (press Ctrl+C to stop)"
	$(BIN)/python -m uvicorn main:app --reload --reload-include "*.html" --host $(HOST) --port $(PORT) \
		--no-server-header --timeout-graceful-shutdown 5

migrate: .venv/installed ## Apply all database migrations
	$(BIN)/python -m alembic upgrade head

demo: migrate ## Add demo users and posts
	$(BIN)/python -m tools.seed $(DEMO)

test: .venv/installed ## Run all tests except those in a browser or under load
	$(PYTEST)

coverage: .venv/installed ## Run the same tests and measure branch coverage
	$(PYTEST) --cov --cov-report=term

test-e2e: .venv/installed ## Run the tests in a browser (Chromium)
	$(BIN)/python -m pytest tests/e2e --numprocesses=2 --dist=loadfile $(E2E)

stress: .venv/installed ## Run race, load and fault tests at full size (one hour)
	$(BIN)/python -m pytest tests/stress tests/test_races.py --stress \
		--log-cli-level=INFO

image-test: .venv/installed ## Test the image and the deployment guide (root, buildah, debootstrap; 10 minutes)
	$(BIN)/python -m pip install --quiet awscli
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/image --log-cli-level=INFO

bench: .venv/installed ## Compare the performance with a conventional app (wrk, 8 minutes)
	$(BIN)/python -m benchmarks

bench-quick: .venv/installed ## Run the benchmark with only 10,000 posts (2 minutes)
	$(BIN)/python -m benchmarks --quick

lighthouse: .venv/installed node_modules/.package-lock.json ## Audit the pages with Lighthouse (Chromium, Node)
	$(BIN)/python -m tools.lighthouse

screenshots: .venv/installed ## Regenerate the screenshots (Chromium)
	$(BIN)/python -m tools.screenshots

openapi: .venv/installed ## Regenerate openapi.json
	$(BIN)/python -m tools.export_openapi

fuzz-api: .venv/installed ## Fuzz the API with 10,000 requests (Schemathesis)
	$(BIN)/python -m tests.fuzz_api $(FUZZ)

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --no-audit --no-fund

ci: ## Run all checks on a clean checkout, as CI does (root, Debian; 10 minutes)
	.ci/run

audit: .venv/installed ## Look for known vulnerabilities in the pinned packages
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement requirements-otel.txt --require-hashes
	npm audit

check: format lint types test ## Check format, lint and types, and run the tests

format: .venv/installed
	$(BIN)/python -m ruff format --check .

lint: .venv/installed
	$(BIN)/python -m ruff check .
	$(BIN)/hadolint Dockerfile
	$(SCHEMA) vendor.compose-spec docker-compose.yml deploy/compose.yml
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) vendor.dependabot .github/dependabot.yml

types: .venv/installed
	$(BIN)/python -m mypy

lock: .venv/installed ## Pin the newest versions of all dependencies
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --upgrade --generate-hashes --output-file requirements.txt
	$(COMPILE) --upgrade --generate-hashes --output-file requirements-otel.txt \
		--constraints requirements.txt --group otel
	$(COMPILE) --upgrade --output-file requirements-dev.txt --constraints requirements.txt --group dev

# touch comes last, so that make repeats an interrupted installation.
.venv/installed: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
		echo "Python 3.11 or later is required; select it with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing about 150 packages into .venv; this takes a minute or two"
	@$(BIN)/python -m pip install --disable-pip-version-check --retries 1 -r requirements-dev.txt || { \
		echo "The packages could not be installed; check the network connection and run make again" >&2; exit 1; }
	touch $@

clean: ## Remove .venv, build files and caches, and keep the data in var/
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache
