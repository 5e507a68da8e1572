# Two commands for a fresh clone, each of which sets up what it needs in .venv:
#   make demo    build an index of real text embeddings, answer questions, show recall and speed
#   make test    linter, type checker, the kernel lanes, the whole test suite
# and for later:
#   make bench   skeg beside other libraries on the same data (installs them in an environment of their own)
#   make bench-kv  the key-value store beside other stores
#   make bench-live  indexes that change, and filters, beside other libraries
#   make bench-net  the server beside searches in process and beside Redis (needs redis-server)
#   make soak    crash the key-value store for some minutes and look for lost writes
#   make soak-live  the same with indexes that change
#   make soak-net  mixed load on the server for an hour, every reply checked (SOAK_ARGS=--kill: kill it again and again)
#   make compat  the server and clients of Redis, the published client, the first implementation (downloads them; needs cargo)
#   make coverage, make wheel, make clean
# Another interpreter: make demo PYTHON=python3.12. More processes for the tests: make test JOBS=8
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
# How many processes test at a time; the tests of a file stay together, as they share what they build.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.PHONY: help demo test lint lanes bench bench-kv bench-live bench-net soak soak-live soak-net compat coverage wheel clean

help:
	@sed -n '/^[^#]/q; s/^# \{0,1\}//p' Makefile

demo: $(VENV)/installed
	$(BIN)/skeg demo

test: lint lanes
	$(PYTEST)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict skeg

# Kernel tests again under every other way in which a kernel can run.
lanes: $(VENV)/installed-dev
	NUMBA_DISABLE_JIT=1 $(PYTEST) -q -m kernels
	NUMBA_BOUNDSCHECK=1 $(PYTEST) -q -m kernels
	set -e; for family in $$($(BIN)/python -c 'from skeg.jit import supported_families as f; print(*f()[1:])'); do \
		echo "SKEG_SIMD=$$family"; SKEG_SIMD=$$family $(PYTEST) -q -m kernels; \
	done

bench: $(VENV)/installed-dev
	$(BIN)/python tests/bench/compare.py $(BENCH_ARGS)

bench-kv: $(VENV)/installed-dev
	$(BIN)/python tests/bench/kv.py $(BENCH_ARGS)

bench-live: $(VENV)/installed-dev
	$(BIN)/python tests/bench/live.py $(BENCH_ARGS)

bench-net: $(VENV)/installed-dev
	$(BIN)/python tests/bench/net.py $(BENCH_ARGS)

soak: $(VENV)/installed-dev
	$(BIN)/python tests/soak/kv.py $(SOAK_ARGS)

soak-live: $(VENV)/installed-dev
	$(BIN)/python tests/soak/ann_live.py $(SOAK_ARGS)

soak-net: $(VENV)/installed-dev
	$(BIN)/python tests/soak/net.py $(SOAK_ARGS)

compat: $(VENV)/installed-dev
	$(BIN)/python tests/compat/redis_clients.py
	$(BIN)/python tests/compat/published_client.py
	$(BIN)/python tests/compat/original.py

# Kernels count what ran with the JIT off: compiled code can't be traced.
coverage: $(VENV)/installed-dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	NUMBA_DISABLE_JIT=1 $(BIN)/coverage run --append -m pytest -q -m kernels
	$(BIN)/coverage report

wheel: $(VENV)/installed
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed
