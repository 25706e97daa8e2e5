# make demo: set everything up in .venv, then run the study that ships.   make test: set up, then run the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-all check wheel-test clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: setup
	$(BIN)/curricle run

check: setup
	$(BIN)/ruff check curricle tests benchmarks scripts
	$(BIN)/ruff format --check curricle tests benchmarks scripts
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two tests at a time on two cores: another thread of one would only wait for those of the other.
test test-all: export OMP_NUM_THREADS = 1
test test-all: export OPENBLAS_NUM_THREADS = 1

test: check
	$(BIN)/python -m pytest -n 2 -m "not slow"

# The slow tests too, among them a Ray cluster and lm-evaluation-harness on an exported model.
test-all: check wheel-test .venv/all
	$(BIN)/python -m pytest -n 2

.venv/all: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,ray,harness]'
	touch $@

# The built wheel, in a clean environment: it must run without the checkout.
wheel-test: setup
	$(PYTHON) scripts/try_wheel.py

clean:
	rm -rf .venv build dist *.egg-info
