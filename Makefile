# The commands of the README; each target says what it does in `make help`.
# Nothing is computed here: a target calls tpforge or a script.
SHELL := /bin/bash
.DEFAULT_GOAL := help

MODEL ?= demo
TP ?= 4
PP ?= 1
MOE_EP ?= 1
RUNTIME ?= auto
NAME ?=
ENGINE ?= $(if $(NAME),out/$(NAME)/engine)
URL ?=
ARGS ?=
JOBS ?= auto

TPFORGE := .venv/bin/tpforge
PRINT_PACKAGES := 'import sysconfig; print(sysconfig.get_path("purelib"))'

.PHONY: drills fuzz help setup setup-openai ready engine verify serve smoke bench stop status demo decide-demo test check check-manifests format docs measure families older-transformers lock sbom clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install all that is needed: Debian packages, .venv; again: does nothing
	@scripts/dev/setup.sh

setup-openai: ready ## Install NVIDIA Dynamo in an environment of its own, for serve --openai
	$(TPFORGE) setup openai

ready:
	@scripts/dev/setup.sh --quiet

engine: ready ## Build an engine: MODEL=DIR|hub id|.gguf|demo TP=4 RUNTIME=auto NAME=... ARGS="--pp 2"
	$(TPFORGE) build $(MODEL) --tp $(TP) --pp $(PP) --runtime $(RUNTIME) $(if $(filter-out 1,$(MOE_EP)),--moe-ep $(MOE_EP)) $(if $(NAME),--name $(NAME)) $(ARGS)

verify: ready ## Prove the newest engine (or NAME=...) against its source and transformers
	$(TPFORGE) verify $(ENGINE) $(ARGS)

serve: ready ## Start Triton on the newest engine (or NAME=...) and return when it answers
	$(TPFORGE) serve $(ENGINE) --detach $(ARGS)

smoke: ready ## Prove over gRPC that the server keeps its contract (URL=host:port for another)
	$(TPFORGE) smoke $(URL) $(ARGS)

bench: ready ## Measure the server under load and record it (URL=host:port ARGS="--concurrency 1,2,4")
	$(TPFORGE) bench $(URL) $(ARGS)

stop: ready ## Stop the server
	$(TPFORGE) stop $(ARGS)

status: ready ## Show the servers that run
	$(TPFORGE) status $(ARGS)

demo: ready ## The whole way with SmolLM2-135M: TP=4, proof, Triton, smoke test, a question
	$(TPFORGE) demo $(ARGS)

decide-demo: ready ## Measure SmolLM2 at TP=1, 2, 4 and int8 on the CPU and write the decision (about 30 min)
	.venv/bin/python -m scripts.dev.decide_demo $(ARGS)

test: ready ## Run the tests, side by side: JOBS=0 one after another, ARGS="-k padding"
	@scripts/dev/setup-tests.sh
	.venv/bin/pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

drills: ready ## Kill, stop, flood and misuse everything, a line each (about 20 min; ARGS=--full)
	.venv/bin/python -m tests.drills $(ARGS)

fuzz: ready ## Give the readers of checkpoints 20 times as much junk as the tests do (about an hour)
	.venv/bin/pytest tests/fuzz --hypothesis-profile=long --timeout=0 $(ARGS)

check: ready ## Lint, format, types, import rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

check-manifests: ready ## Run the tests that need Helm, kubectl, promtool and others; installs about 1 GB
	@scripts/dev/check-manifests.sh $(ARGS)

format: ready ## Format the code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: ready ## Write the generated pages again: docs/cli.md, engine.schema.json, families.md
	.venv/bin/python -m scripts.dev.generate_docs

measure: ready ## Measure every figure of README and docs again, on a quiet machine: ARGS=--list
	.venv/bin/python -m scripts.dev.measure $(ARGS)

families: ready ## Prove every model family again and write docs/families.json and .md
	.venv/bin/python -m tests.support.families.record
	.venv/bin/python -m scripts.dev.generate_docs

older-transformers: ready ## Install transformers 4.57.3 beside, for the tests that ask it: .venv-transformers-4
	.venv/bin/python -m venv .venv-transformers-4
	.venv-transformers-4/bin/pip -q install --require-hashes --requirement requirements/transformers-4.lock
	.venv/bin/python -c $(PRINT_PACKAGES) > "$$(.venv-transformers-4/bin/python -c $(PRINT_PACKAGES))/beside.pth"

lock: ## Write the locks again, each from its .in
	scripts/dev/lock.sh --upgrade

sbom: ready ## Write out/sbom.json, the bill of materials of requirements.lock (CycloneDX)
	.venv/bin/python -m scripts.dev.sbom requirements.lock out/sbom.json

clean: ## Stop the servers, remove out/ and the caches; keeps .venv
	@if [ -x $(TPFORGE) ]; then $(TPFORGE) stop --all; fi
	rm -rf out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
