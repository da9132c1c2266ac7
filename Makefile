# A bare machine with Python >= 3.11 needs nothing else. Every target installs into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check audit docs claims bench clean

setup: $(VENV)/installed

# torch first and by itself: the pinned CPU build, before any other package can ask for a larger one
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "icecore needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/icecore demo

# two processes; the tests of a file stay in one, since they share fixtures
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive src --configfile pyproject.toml

# known faults of the installed versions; says so where the index cannot be reached or has no reports
audit: setup
	$(BIN)/python .ci/audit.py

# the guides and the API reference as pages that need no network; a broken link or an unknown name is an error
docs: setup
	$(BIN)/mkdocs build --quiet

# which claims of the paper hold, from results/ into the guide; a test checks that the guide has it
claims: setup
	$(BIN)/icecore paper --claims --write docs/reproducing.md

# one after another, each alone on the machine; results go to benchmarks/results
BENCHMARKS := training_speed packed_runs long_sequences inference feature_cache scaling prediction_memory serving serving_http data_parallel

bench: setup
	for script in $(BENCHMARKS); do $(BIN)/python benchmarks/$$script.py --write || exit 1; done
	# its short part, measured anew although it keeps its measurements
	$(BIN)/python benchmarks/time_to_accuracy.py --write --again

clean:
	rm -rf $(VENV) demo runs site
