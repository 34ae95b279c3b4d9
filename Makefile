# Everything here works in .venv of this checkout. `make help` lists the targets.

STAMPS := .venv/stamps
BIN := .venv/bin
# Some images set it: then every process that a test starts would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup serve test chaos fuzz bench docs lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMPS)/muleteer $(STAMPS)/examples ## locked environment in .venv, the command at .venv/bin/muleteer

serve: setup ## serve the examples on http://127.0.0.1:8000
	$(BIN)/muleteer serve examples/fancy_model.py:FancyModel --route /predict examples/translate.py:Translator --route /translate

test: setup $(STAMPS)/dev $(STAMPS)/ray ## lint, types, every test
	@scripts/debian-packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --ignore tests/faults --ignore tests/ray
	$(BIN)/python -m pytest --numprocesses 2 tests/faults
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/ray

chaos: setup $(STAMPS)/dev ## kill things under load, for long; prints its seed
	$(BIN)/python -m tests.faults.chaos

fuzz: setup $(STAMPS)/dev ## feed bad bytes, for long
	$(BIN)/python -m tests.fuzz.long

bench: setup $(STAMPS)/dev ## measure, and write bench/results
	@scripts/debian-packages
	$(BIN)/python -m bench.run

docs: $(STAMPS)/muleteer ## write docs/settings.md from the declarations
	$(BIN)/python -m muleteer.cli.reference > docs/settings.md.new
	mv docs/settings.md.new docs/settings.md

lock: $(STAMPS)/dev ## compile requirements/*.in again (needs a package index)
	scripts/lock

clean: ## remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

# One stamp per requirement file: set-up is redone only where a file is newer than what was installed.
$(STAMPS)/python:
	@scripts/make-venv
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/muleteer: requirements/muleteer.txt pyproject.toml | $(STAMPS)/python
	$(BIN)/python -m pip install --quiet --require-hashes -r $<
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMPS)/%: requirements/%.txt | $(STAMPS)/python
	$(BIN)/python -m pip install --quiet --require-hashes -r $<
	@touch $@
