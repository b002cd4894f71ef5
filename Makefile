# The commands of the project; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BUNDLE ?=
MEASURED = $(or $(BUNDLE),data/bundle)
HOST ?= 127.0.0.1
PORT ?= 8000

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-all test-page test-docker chromium prometheus check fix demo repro bench chaos lock audit

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv with everything in it

$(STAMP): requirements.lock pyproject.toml $(wildcard ml_service/inference/kernels/*.h ml_service/inference/kernels/*.cpp)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 setup")'
	@echo 'making $(VENV): about two minutes, 2 GB'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --editable .
	@touch $@

serve: $(STAMP) ## serve what was deployed last, the shipped model at first (HOST=, PORT=, BUNDLE= deploys another)
	$(BIN)/ml-service serve $(if $(BUNDLE),--bundle $(BUNDLE)) --host $(HOST) --port $(PORT)

test: $(STAMP) ## the fast tests
	$(BIN)/python -m pytest

test-all: $(STAMP) build/deepspeed chromium prometheus ## every test, the slow ones and those in a browser too
	$(BIN)/python -m pytest -m ''

test-page: $(STAMP) chromium ## the stories of the web page, in a real browser; screenshots in build/screenshots
	$(BIN)/python -m pytest -m browser tests/page

test-docker: $(STAMP) ## the stack of containers, built, used and broken with a real engine (brings one up where it can)
	tests/docker/engine.sh
	$(BIN)/python -m pytest -m docker tests/docker

chromium: # Debian's; the tests name no other browser
	@command -v chromium >/dev/null || (apt-get -qq update && apt-get -qq install --no-install-recommends chromium fonts-dejavu-core)

prometheus: # Debian's; the tests start their own, so its service does not stay on
	@command -v promtool >/dev/null || (apt-get -qq update && apt-get -qq install --no-install-recommends prometheus && \
		(systemctl disable --now prometheus 2>/dev/null || true))

build/deepspeed: pyproject.toml # apart from the rest: accelerate imports it wherever it finds it
	DS_BUILD_OPS=0 $(BIN)/python -m pip install -qq --upgrade --no-deps --target $@ deepspeed==0.19.8 einops hjson \
		msgpack ninja py-cpuinfo
	@touch $@

check: $(STAMP) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: requirements.lock ## compare the lock file with known holes (wants pypi.org itself, not a mirror)
	@test -x build/audit/bin/pip-audit || ($(PYTHON) -m venv build/audit && build/audit/bin/pip install -qq pip-audit)
	build/audit/bin/pip-audit --strict --disable-pip --no-deps -r requirements.lock

fix: $(STAMP) ## mend what can be mended, print the tree and the settings anew
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m lib.captions docs/architecture.md lib ml_service benchmarks tests
	$(BIN)/python -m lib.settings_table docs/settings.md ml_service.common.settings Settings

demo: $(STAMP) ## train nano on the spot, export, serve, complete: under five minutes
	$(BIN)/python -m benchmarks.demo

repro: $(STAMP) ## the pipeline under DVC: params.yaml -> data/store/pipeline/bundle
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

bench: $(STAMP) ## the benchmarks of the README
	$(BIN)/python -m benchmarks.bundle_quality $(MEASURED)
	$(BIN)/python -m benchmarks.equality $(MEASURED)
	$(BIN)/python -m benchmarks.first_answer $(MEASURED)
	$(BIN)/python -m benchmarks.completions $(MEASURED)
	$(BIN)/python -m benchmarks.http_overhead $(MEASURED)
	$(BIN)/python -m benchmarks.fairness $(MEASURED)
	$(BIN)/python -m benchmarks.lookup $(MEASURED)
	$(BIN)/python -m benchmarks.scoring $(MEASURED)
	$(BIN)/python -m benchmarks.batch_memory $(MEASURED)
	$(BIN)/python -m benchmarks.broken_input $(MEASURED)
	$(BIN)/python -m benchmarks.open_pages $(MEASURED)
	$(BIN)/python -m benchmarks.soak $(MEASURED)
	$(BIN)/python -m benchmarks.training_step
	$(BIN)/python -m benchmarks.loop_overhead
	$(BIN)/python -m benchmarks.gpu_training
	$(BIN)/python -m benchmarks.tokenising
	$(BIN)/python -m benchmarks.adding_data
	$(BIN)/python -m benchmarks.shakespeare
	$(BIN)/python -m benchmarks.retraining ../shared/data/tinyshakespeare/input.txt

chaos: $(STAMP) ## break a running service on purpose and see whether what is promised holds (25 minutes)
	$(BIN)/python -m tests.chaos

lock: ## make requirements.lock anew from pyproject.toml
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet torch==2.13.0 '.[dev]'
	echo '# Exact versions for `make setup`; made by `make lock` from pyproject.toml (base and dev).' > requirements.lock
	build/lock/bin/pip freeze --exclude ml-service | sed 's/+cpu$$//' >> requirements.lock
