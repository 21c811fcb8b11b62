# Thin targets; the work is in scripts/.  `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
PYTEST_ARGS ?=
# make env PYTHON=/path/to/python3.12 chooses the interpreter; see scripts/venv for the default.
export PYTHON

VENV := .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/lib/rkt/python
SERVICES := $(VENV)/lib/rkt/services
STAGE1 := $(patsubst %,$(VENV)/lib/rkt/stage1-images/stage1-%.aci,oci fly nspawn)
SOURCES := $(shell find src -name '*.py')
# What stage1 carries: its image is made anew when any of this changes.
STAGE1_SOURCES := $(filter src/rkt/stage1/% src/rkt/linux/% src/rkt/network/% src/rkt/__init__.py \
	src/rkt/errors.py src/rkt/log.py src/rkt/const.py src/rkt/quickjson.py,$(SOURCES)) src/rkt/stage1/listen.c
CODE := src tests examples benchmarks scripts/demo.py scripts/manpages.py

.PHONY: help env packages venv demo test lint type unit integration bench fmt proto lock install clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

env: packages venv $(VENV)/.requirements $(RUNTIME)/.requirements $(SERVICES)/.requirements $(VENV)/bin/rkt $(STAGE1) $(VENV)/.compiled $(VENV)/lib/rkt/modules ## set up everything that the other targets need

packages:
	@scripts/packages

venv:
	@scripts/venv $(VENV)

$(VENV)/.requirements: requirements/dev.txt | venv
	$(PY) -m pip install -qq --no-input --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

# What rkt itself needs, apart from the tools of development: their presence must not change what a
# library imports (msgspec loads typing_extensions if it is there: 7 ms at every start).
# The libraries of long-running services have a directory of their own for the same reason.
$(RUNTIME)/.requirements: requirements/runtime.txt
$(SERVICES)/.requirements: requirements/services.txt
$(RUNTIME)/.requirements $(SERVICES)/.requirements: | venv
	@rm -rf $(@D)
	$(PY) -m pip install -qq --no-input --disable-pip-version-check --no-deps --require-hashes \
		-r $< --target $(@D)
	@$(PY) -m compileall -q $(@D)
	@touch $@

$(VENV)/bin/rkt: scripts/launcher | venv
	scripts/launcher $@ "$$($(PY) -c 'import sys; print(sys._base_executable)')" \
		"$(CURDIR)/$(VENV)/lib/rkt" "$(CURDIR)/src" "$(CURDIR)/$(RUNTIME)"

$(STAGE1): $(STAGE1_SOURCES) | $(VENV)/.requirements
	@mkdir -p $(@D)
	PYTHONPATH=src $(PY) -m rkt.stage1.build $@ --flavor $(patsubst stage1-%.aci,%,$(@F))

$(VENV)/.compiled: $(SOURCES) | venv
	@$(PY) -m compileall -q -j 0 src
	@touch $@

# What the command loads at its start, in one file.
$(VENV)/lib/rkt/modules: $(SOURCES) | venv
	@mkdir -p $(@D)
	@cd src && ../$(PY) rkt/packed.py ../$@ "$$PWD" "$$PWD" --current $$(find rkt -name '*.py')

demo: env ## the main job on real input, told step by step
	@$(PY) scripts/demo.py

test: env lint type ## everything that CI checks
	$(PY) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS) tests

lint: env ## ruff
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)

type: env ## mypy --strict
	$(PY) -m mypy

unit: env ## tests that need neither root nor network
	$(PY) -m pytest $(PYTEST_ARGS) tests/unit

integration: env ## tests with real pods, as root
	$(PY) -m pytest $(PYTEST_ARGS) tests/integration tests/bed tests/e2e

bench: env ## compare with podman, the bare runtime and tools run by hand
	@scripts/packages bench
	@$(PY) benchmarks/bench.py $(BENCH_ARGS)

fmt: env ## format and fix what ruff can
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

proto: ## generate what speaks the wire format of the API out of its .proto
	$(PY) -m grpc_tools.protoc -I src --python_out=src --pyi_out=src src/rkt/services/api.proto

lock: ## pin the newest allowed dependencies with their hashes
	scripts/lock

install: env ## install below PREFIX (default /usr/local), under DESTDIR if given
	scripts/install "$(DESTDIR)" "$(PREFIX)" "$(SYSCONFDIR)"

clean: ## remove everything that was made here
	rm -rf $(VENV) .cache build dist
	find src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
