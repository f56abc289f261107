# Everything a newcomer or CI runs. `make` alone sets up; a fresh machine needs Python 3.11+ (with venv), make and git.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
TASK ?= activity
# DEVICES, ROUNDS and PARTITION: the task's own unless given.

LOCKS := requirements/edge.txt requirements/server.txt requirements/convert.txt requirements/dev.txt
# tflite-runtime ends at Python 3.11; on newer Pythons every agent runs on LiteRT.
HAS_TFLITE_RUNTIME := $(shell $(PYTHON) -c 'import sys; print("yes" if sys.version_info < (3, 12) else "")')
DEVICE_VENVS := .venv-edge $(if $(HAS_TFLITE_RUNTIME),.venv-edge-tflite)

.PHONY: all demo pictures test test-long test-postgresql fuzz check format bench deb check-deb lock clean
all: .venv $(DEVICE_VENVS)

.venv: .venv/.ready
.venv-edge: .venv-edge/.ready
.venv-edge-tflite: .venv-edge-tflite/.ready

.venv/.ready: $(LOCKS) pyproject.toml
	@echo "setting up .venv (TensorFlow included: about 700 MB, a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes $(addprefix -r ,$(LOCKS))
	@rm -rf .venv/editable && mkdir .venv/editable
	$(BIN)/python -c 'from hatchling.build import build_editable; build_editable(".venv/editable")' >/dev/null
	$(BIN)/pip install --quiet --no-deps --force-reinstall .venv/editable/*.whl
	@touch $@

# The devices of the demo and of the tests: one light environment per runtime, without TensorFlow.
.venv-%/.ready: requirements/%.txt .venv/.ready
	@echo "setting up .venv-$* (what a device installs)"
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --require-hashes -r $<
	.venv-$*/bin/pip install --quiet --no-deps --force-reinstall .venv/editable/*.whl
	@touch $@

demo: all
	$(BIN)/python -m tools.demo --task $(TASK) $(if $(DEVICES),--devices $(DEVICES)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(PARTITION),--partition $(PARTITION))

test: all
	$(BIN)/pytest -n 3 --dist loadgroup tests

# What docs/tour.md shows, taken anew by the tests of the page.
pictures: all
	FEDLOOM_PICTURES=$${FEDLOOM_PICTURES:-docs/tour} $(BIN)/pytest -q tests/browser

# What takes minutes each, and is left out of the default suite.
test-long: all
	$(BIN)/pytest -n 2 --dist loadgroup -m long tests

# The aggregator's tests once more, on a PostgreSQL of their own instead of a file.
test-postgresql: all
	$(BIN)/pytest -n 2 --dist loadgroup --database postgresql tests/cloud_server tests/e2e

# Ten times the requests of the default suite.
fuzz: all
	$(BIN)/python -m tests.e2e.run_fuzz --requests 20000

check: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/docs

format: .venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: all
	$(BIN)/fedloom bench all

# The agent for Debian 12, in dist/: ARCH=amd64 or arm64, whatever machine builds it.
deb: .venv
	$(BIN)/python -m tools.packaging.build --arch $(or $(ARCH),amd64) --out dist

# Installs it in a fresh Debian 12 (debootstrap, as root), and sees that it contributes and leaves nothing behind. An ARCH
# of another machine runs in qemu-user-static, which binfmt_misc must know by the flag F.
check-deb: all
	$(if $(ARCH),FEDLOOM_DEB_ARCH=$(ARCH)) $(BIN)/pytest -m long tests/e2e/test_package.py

# One universal resolution; every extra's lock is cut from it, so that no two environments disagree.
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate pyproject.toml
lock:
	$(COMPILE) --all-extras -o requirements/all.txt
	for extra in edge edge-tflite images server convert scale dev; do \
	  $(COMPILE) --extra $$extra -c requirements/all.txt -o requirements/$$extra.txt; done

clean:
	rm -rf .venv .venv-edge .venv-edge-tflite demo-report .mypy_cache .ruff_cache .pytest_cache .hypothesis
