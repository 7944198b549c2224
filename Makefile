# Afina. `make` alone prints the verbs.
SHELL := /bin/bash
PYTHON ?= python3
ACCELERATOR ?= auto
KEEP ?= 1
export AFINA_HOME ?= $(CURDIR)/.afina
BIN := .venv/bin
PROTOS := $(wildcard proto/afina/v1/*.proto)
# Where pip does not find PyTorch's CPU build by itself, it is taken from PyTorch's own index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help demo stop status test check format proto bench clean venv dev

help: ## print the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: venv ## run the main job on this machine and report (KEEP=0 stops the programs at the end, ACCELERATOR=cpu|cuda)
	@$(BIN)/afina demo --accelerator $(ACCELERATOR) $(if $(filter 0,$(KEEP)),--no-keep,--keep)

stop: ## end the programs that a demo left running
	@if [ -x $(BIN)/afina ]; then $(BIN)/afina down; else echo "Nothing runs: there is no environment yet."; fi

status: venv ## say which programs run
	@$(BIN)/afina status

test: dev check ## everything that CI runs: check, then all other tests
	$(BIN)/python -m pytest -n logical --maxprocesses 8 tests/simulation
	$(BIN)/python -m pytest tests/contract tests/learning tests/e2e

check: dev ## format, lint, types, import contracts, proto drift, unit and rpc tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory proto-check
	$(BIN)/python -m pytest -n logical --maxprocesses 8 tests/unit tests/rpc tests/architecture

format: dev ## put the code in form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: dev ## measure beside the peers (minutes; an idle machine)
	@$(BIN)/pip install -q -e '.[peers]'
	@for name in $(basename $(notdir $(wildcard tests/benchmarks/*.py))); do echo "== $$name"; $(BIN)/python -m tests.benchmarks.$$name || exit 1; done

proto: dev ## generate proto/gen from proto/afina
	@$(call generate,proto/gen)

.PHONY: proto-check
proto-check:
	@out=$$(mktemp -d) && trap 'rm -rf $$out' EXIT && $(call generate,$$out) \
	  && diff -r -x __pycache__ $$out proto/gen > /dev/null || { echo "proto/gen is not what proto/afina says: run 'make proto'."; exit 1; }
	@image=$$(mktemp --suffix=.binpb) && trap 'rm -f $$image' EXIT \
	  && $(BIN)/python -m grpc_tools.protoc -I proto -I $(call google) --include_imports --include_source_info --descriptor_set_out=$$image $(PROTOS) \
	  && $(BIN)/buf lint $$image --config proto/buf.yaml

google = $$($(BIN)/python -c 'import google.rpc, pathlib; print(pathlib.Path(google.rpc.__path__[0]).parents[1])')
generate = $(BIN)/python -m grpc_tools.protoc -I proto -I $(call google) --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $(PROTOS)

clean: stop ## remove environment, caches and what a demo made
	rm -rf .venv .afina .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

EXTRA = $(if $(filter cuda,$(ACCELERATOR)),all-cuda,all)
venv: .venv/.installed-$(EXTRA)
dev: .venv/.installed-$(EXTRA)-dev

.venv/.installed-all .venv/.installed-all-cuda: pyproject.toml
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14)' 2>/dev/null \
	  || { echo "Afina needs Python 3.11 to 3.13; say which one: make PYTHON=python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
	  || { rm -rf .venv; echo "This Python has no venv: apt-get install python3-venv"; exit 1; }
	@echo "Installing into .venv (a few minutes, about 3 GB)…"
	@index=""; $(BIN)/pip install -q --dry-run --no-deps 'torch==2.13.0+cpu' >/dev/null 2>&1 || index="--extra-index-url $(TORCH_INDEX)"; \
	  [ "$(EXTRA)" = all ] || index=""; \
	  $(BIN)/pip install -q $$index -e '.[$(EXTRA)]' 2>&1 | grep -v '^WARNING: Location' || test $${PIPESTATUS[0]} -eq 0
	@# Text serving needs none of these, and a torchvision from another index does not load beside the CPU build of torch.
	@$(BIN)/python -c 'import torchvision' >/dev/null 2>&1 || $(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec >/dev/null 2>&1 || true
	@touch $@

.venv/.installed-%-dev: .venv/.installed-%
	@echo "Installing what the tests need…"
	@$(BIN)/pip install -q -e '.[$*,dev,peers]' 2>&1 | grep -v '^WARNING: Location' || test $${PIPESTATUS[0]} -eq 0
	@$(BIN)/python -c 'import torchvision' >/dev/null 2>&1 || $(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec >/dev/null 2>&1 || true
	@touch $@
