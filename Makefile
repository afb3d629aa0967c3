PYTHON ?= python3
PINNED := $(shell grep '^torch==' constraints.txt)
TORCH ?= $(PINNED)
MODEL ?= pocket
MINUTES ?= 10
VENV := .venv
BIN := $(VENV)/bin
# Another torch than the pinned one wants its own setuptools, too.
LOOSE := $(if $(filter-out $(PINNED),$(TORCH)),^(torch|setuptools)==,^$$)
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

.PHONY: help demo test test-slow coverage mutants attack lint bench pocket clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       teach the pocket model ten shots on this machine, and see that it learned"
	@echo "make test       the tests"
	@echo "make test-slow  the tests, with those that take minutes"
	@echo "make coverage   the tests, and which lines they came through; half as long again"
	@echo "make mutants    small faults in the mathematics, which tests have to notice; COUNT=50: so many of them"
	@echo "make attack     spoiled inputs of every kind against every verb; MINUTES=10"
	@echo "make lint       ruff and mypy"
	@echo "make bench      measure drawing and training here; MODEL=sd15 or sdxl: at full size, with random weights"
	@echo "make pocket     make the pocket model anew (hours; continues where it was stopped)"
	@echo "make clean      remove the environment and all caches; out/ is kept"
	@echo
	@echo "PYTHON=python3.12 chooses the Python, TORCH=torch==2.12.0 the torch."

demo: $(VENV)/.tenshot
	$(BIN)/tenshot demo
	@echo "Now open out/demo/index.html"

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -n auto -m "slow or not slow"

coverage: $(VENV)/.dev
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n auto --dist loadfile
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

mutants: $(VENV)/.dev
	@$(BIN)/python -m tests.mutants $(if $(COUNT),--count $(COUNT))

attack: $(VENV)/.dev
	@$(BIN)/python -m tests.attack --minutes $(MINUTES)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/tenshot bench inference --model $(MODEL) --out out/bench/$(MODEL)-inference.md
	$(BIN)/tenshot bench train --model $(MODEL) --json > out/bench/$(MODEL)-train.json

pocket: $(VENV)/.pocket
	$(BIN)/python -m recipes.pocket.build

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build dist src/*.egg-info
	find src recipes tests -name __pycache__ -prune -exec rm -rf {} +

# torch goes first and alone: its pin has no local version, so that whichever build pip finds here satisfies it.
$(VENV)/.tenshot: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Tenshot needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv module: install python3-venv, or choose another: make PYTHON=..."; exit 1; }
	@echo "Making $(VENV) with $(TORCH): some minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@grep -vE '$(LOOSE)' constraints.txt > $(VENV)/constraints.txt
	@$(PIP) -c $(VENV)/constraints.txt setuptools '$(TORCH)'
	@$(PIP) -c $(VENV)/constraints.txt --no-build-isolation -e .
	@touch $@

# spandrel comes without torchvision: where torch is of another build than the registry's, that breaks whatever finds it.
$(VENV)/.dev $(VENV)/.pocket: $(VENV)/.%: $(VENV)/.tenshot
	@$(PIP) -c $(VENV)/constraints.txt --no-build-isolation -e '.[$*]'
	@$(if $(filter dev,$*),$(PIP) -c $(VENV)/constraints.txt --no-deps spandrel)
	@touch $@
