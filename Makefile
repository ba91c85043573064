# Each target first makes .venv by itself, once; it is brought up to date when its two inputs change.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help quickstart reproduce reproduce-real test test-slow test-interop interop-table bench lint docs wheel image clean

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
INSTALL := .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist worksteal
READY := .venv/.ready
PEERS := eai-sparsify dictionary-learning sae-lens llamascopium
CLIENTS := eai-sparsify dictionary-learning sae-lens
CLIENTS_PYTHON ?= .venv-interop/bin/python
CLIENTS_READY := $(if $(filter .venv-interop/%,$(CLIENTS_PYTHON)),.venv-interop/.ready)
SAEBENCH_PYTHON ?= .venv-saebench/bin/python
SAEBENCH_READY := $(if $(filter .venv-saebench/%,$(SAEBENCH_PYTHON)),.venv-saebench/.ready)
HANDOFF_PYTHON ?= .venv-handoff/bin/python
HANDOFF_READY := $(if $(filter .venv-handoff/%,$(HANDOFF_PYTHON)),.venv-handoff/.ready)
OTHERS := SAE_DIST_CLIENTS=$(CLIENTS_PYTHON) SAE_DIST_SAEBENCH=$(SAEBENCH_PYTHON) SAE_DIST_HANDOFF=$(HANDOFF_PYTHON)
S3_PYTHON ?= .venv-s3/bin/python
S3_READY := $(if $(filter .venv-s3/%,$(S3_PYTHON)),.venv-s3/.ready)
INSTALL_PEER := .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c benchmarks/constraints.txt torch

help:
	@echo "make quickstart   from text to pages of latents and a report on this machine's CPU, in minutes;"
	@echo "                  LM=scratch fetches no language model and trains a small one"
	@echo "make reproduce    published claims beside what a small LM shows, in docs/reproduction.md; within an hour"
	@echo "make reproduce-real  the same of SmolLM2-135M, beside them; some hours, and resumed"
	@echo "make test         the fast tests"
	@echo "make test-slow    the tests that need minutes, several processes or gigabytes"
	@echo "make test-interop what is exported, imported and handed off, read by the other libraries, in environments of theirs"
	@echo "make bench        steps beside other trainers' (in a .venv-bench of their own), stream, harvest, end to end"
	@echo "make lint         ruff and mypy"
	@echo "make docs         the site, in site/, by a .venv-docs of its own; fails on a warning"
	@echo "make wheel        the package as a wheel, in dist/"
	@echo "make image        a Docker image for CPUs from the wheel, where there is an engine"
	@echo "make clean        remove all environments, builds and caches (never runs/ or stores/)"

quickstart: $(READY)
	@LM=$(LM) launch/quickstart.sh

reproduce: $(READY)
	@examples/reproduce/run.sh small

reproduce-real: $(READY)
	@examples/reproduce/run.sh real

test: $(READY)
	@$(PYTEST) -m "not slow"

test-slow: $(READY) $(CLIENTS_READY) $(SAEBENCH_READY) $(HANDOFF_READY) $(S3_READY)
	@$(OTHERS) SAE_DIST_S3=$(S3_PYTHON) $(PYTEST) -m slow

test-interop: $(READY) $(CLIENTS_READY) $(SAEBENCH_READY) $(HANDOFF_READY)
	@$(OTHERS) OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests/interop tests/handoff

interop-table: $(READY) $(CLIENTS_READY) $(SAEBENCH_READY)
	@$(OTHERS) .venv/bin/python -W ignore -m tests.interop.measure
	@$(OTHERS) .venv/bin/python -W ignore -m tests.interop.saebench_tables

bench: $(READY) .venv-bench/.ready
	@.venv/bin/python -W ignore -m benchmarks

docs: .venv-docs/.ready
	.venv-docs/bin/mkdocs build --strict

wheel: $(READY)
	.venv/bin/python -m hatchling build -t wheel

image:
	docker build -f docker/cpu.Dockerfile -t sae-dist:cpu .
	docker run --rm sae-dist:cpu --help

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv .venv-bench .venv-docs .venv-handoff .venv-interop .venv-s3 .venv-saebench .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "error: found no Python 3.11 or newer among python3, python3.13, python3.12, python3.11;" \
		"install one, or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot make a virtual environment" \
		"(no ensurepip); on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@echo "making .venv with $$("$(PYTHON)" --version), once"
	@"$(PYTHON)" -m venv .venv
	@echo "  1/2 torch, some 200 MB where a CPU build is offered ..."
	@$(INSTALL) torch
	@echo "  2/2 the other packages ..."
	@$(INSTALL) -e '.[dev,deepspeed,gguf]'
	@touch $@

# A peer that does not install is left out, and the results say so. PyPI's torchvision comes with some
# of them, is built for CUDA, breaks beside a CPU build of torch, and is used by none of them here.
.venv-bench/.ready: benchmarks/constraints.txt | $(READY)
	@echo "making .venv-bench for the peers, once"
	@"$(PYTHON)" -m venv .venv-bench
	@for peer in $(PEERS); do $(INSTALL_PEER) $$peer || echo "$$peer does not install: left out"; done
	@.venv-bench/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

# The libraries whose files are written and read; all must install. CLIENTS_PYTHON=… names the Python
# of an environment that has them already. dictionary_learning asks for nnsight before 0.4, needs none
# of it to read and write files, and the guide is for today's.
.venv-interop/.ready: benchmarks/constraints.txt | $(READY)
	@echo "making .venv-interop for the other libraries, once"
	@"$(PYTHON)" -m venv .venv-interop
	@.venv-interop/bin/python -m pip install --quiet --disable-pip-version-check \
		-c benchmarks/constraints.txt torch $(CLIENTS)
	@.venv-interop/bin/python -m pip install --quiet --disable-pip-version-check nnsight==0.8.1
	@.venv-interop/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

# moto, an S3 server for the tests of stores at s3://; what it needs is older than what we need.
.venv-s3/.ready: | $(READY)
	@echo "making .venv-s3 for an S3 server, once"
	@"$(PYTHON)" -m venv .venv-s3
	@.venv-s3/bin/python -m pip install --quiet --disable-pip-version-check 'moto[server]==5.2.5'
	@touch $@

# SAEBench with its own pins, which are older than ours (numpy < 2, datasets < 4), so that it has an
# environment to itself, of Python 3.11 or 3.12; crc32c is all that sae_dist needs there besides.
.venv-saebench/.ready: benchmarks/constraints.txt | $(READY)
	@echo "making .venv-saebench for SAEBench, once"
	@"$(PYTHON)" -m venv .venv-saebench
	@.venv-saebench/bin/python -m pip install --quiet --disable-pip-version-check \
		-c benchmarks/constraints.txt torch sae-bench crc32c
	@.venv-saebench/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

# The tools that latents are handed to. delphi asks for vllm, and SAEDashboard for packages older than
# circuit-tracer's; their readers need neither, so that both come alone, with what delphi's import.
# circuit-tracer 0.5's backend nnsight wants one before 0.8, which wants four packages more.
.venv-handoff/.ready: benchmarks/constraints.txt | $(READY)
	@echo "making .venv-handoff for delphi, SAEDashboard and circuit-tracer, once"
	@"$(PYTHON)" -m venv .venv-handoff
	@.venv-handoff/bin/python -m pip install --quiet --disable-pip-version-check -c benchmarks/constraints.txt \
		torch circuit-tracer asyncer blobfile faiss-cpu httpx orjson simple-parsing tiktoken \
		astor ipython 'python-socketio[client]' toml
	@.venv-handoff/bin/python -m pip install --quiet --disable-pip-version-check -c benchmarks/constraints.txt \
		--no-deps eai-delphi sae-dashboard
	@.venv-handoff/bin/python -m pip install --quiet --disable-pip-version-check --no-deps nnsight==0.7.0
	@.venv-handoff/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

# Docstrings are read, not imported: the site needs the packages of the extra `docs` and no torch.
.venv-docs/.ready: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "error: found no Python 3.11 or newer; install one, or name it with PYTHON=" >&2; exit 2; }
	@echo "making .venv-docs with $$("$(PYTHON)" --version), once"
	@"$(PYTHON)" -m venv .venv-docs
	@.venv-docs/bin/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		> .venv-docs/packages.txt
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r .venv-docs/packages.txt
	@touch $@
