# make demo   show the main job on this machine        make check  format, lint, types, layers
# make test   everything that CI tests                 make bench  what it costs, as ratios
# make soak   hours of small jobs while everything breaks (SOAK_SECONDS, SOAK_SEED)
# make clean  remove what these left behind           make install  the commands alone, into .venv
SHELL := /bin/bash
.DEFAULT_GOAL := help

# A company's own certificate authority, for image builds (images/ca/README.md).
EXTRA_CA ?= $(or $(SSL_CERT_FILE),$(REQUESTS_CA_BUNDLE))

# Hundreds of our own commands start in a test run, and each would compile all of its modules anew.
unexport PYTHONDONTWRITEBYTECODE

WITH_ENGINE = set -a; . .state/environment; set +a;

.PHONY: help install demo test check bench images clean
help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

install: .venv/.ready

demo: images
	@$(WITH_ENGINE) examples/demo.sh

# Files of tests side by side. On two processors three workers leave 7 % of them idle; four leave none, and tests that
# wait for the engine wait longer.
TEST_WORKERS ?= 3

test: check pytest

.PHONY: pytest
pytest: .venv/.tools images test-tools
	@echo "== testing with the runtime that .state/environment names (20 minutes on two slow processors)"
	@$(WITH_ENGINE) .venv/bin/pytest --numprocesses=$(TEST_WORKERS) --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# What tests/tools.py lists. The tests start these programs; none becomes a service.
.PHONY: test-tools
test-tools: .venv/.ready | .state/environment
	@.venv/bin/python -m tests.tools

check: .venv/.tools
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

# Seconds of a soak: four hours.
SOAK_SECONDS ?= 14400
.PHONY: soak
soak: .venv/.tools images
	@$(WITH_ENGINE) SOAK_SECONDS=$(SOAK_SECONDS) .venv/bin/pytest tests/soak -s -v

bench: images
	@$(WITH_ENGINE) .venv/bin/python -m bench

# The images on the engine that .state/environment names. Each step that takes long is told, by either builder's words.
images: .state/environment images/ca/extra.crt
	@$(WITH_ENGINE) set -o pipefail; echo "== building the images (a few minutes the first time)"; \
	  .venv/bin/docker-compose --progress plain build 2>&1 | tee .state/build.log \
	    | { grep --line-buffered -E '^(Step [0-9]+/[0-9]+ : (FROM|RUN)|#[0-9]+ \[.*(FROM|RUN))' || true; } | cut -c 1-100 \
	    || { tail -n 40 .state/build.log >&2; echo "The build failed; all of it is in .state/build.log." >&2; exit 1; }

# Which engine and runtime to use is decided anew each time: the host may have changed.
.PHONY: .state/environment
.state/environment: .venv/.ready
	@mkdir -p .state
	@.venv/bin/sandbox evaluation prepare >.state/environment.new && mv .state/environment.new $@

.PHONY: images/ca/extra.crt
images/ca/extra.crt:
	@if [ -n "$(EXTRA_CA)" ]; then cmp -s "$(EXTRA_CA)" $@ || cp "$(EXTRA_CA)" $@; fi

# Not compiled, which took a quarter of the time: most of it is never imported.
PIP_INSTALL = pip install --quiet --disable-pip-version-check --no-compile

.venv/.ready: pyproject.toml
	@echo "== installing into .venv"
	@python3 -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "== installing python3 and python3-venv"; \
	       apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 python3-venv ca-certificates >/dev/null; }
	@python3 -m venv .venv
	@.venv/bin/$(PIP_INSTALL) --upgrade pip # those of 2023 take twice as long for what follows
	@.venv/bin/$(PIP_INSTALL) --editable '.[compose]'
	@touch $@

# What only tests and checks need: most of all that is installed, and whoever wants a demo waits for none of it.
.venv/.tools: .venv/.ready
	@echo "== installing what tests and checks need"
	@.venv/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"], sep="\n")' >$@.txt
	@.venv/bin/$(PIP_INSTALL) --requirement $@.txt && mv $@.txt $@

clean:
	@if [ -x .venv/bin/sandbox ]; then .venv/bin/sandbox evaluation down --purge; fi
	@rm -rf .venv .state images/ca/extra.crt .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
