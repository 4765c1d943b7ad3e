# An active virtual environment's python is used; another one: make check PYTHON=python3.13
PYTHON ?= python

.PHONY: help venv check format lint types coverage test bench demo clean

help:
	@echo "make venv      .venv with everything for development"
	@echo "make check     format, lint, types, tests with branch coverage"
	@echo "make test      tests alone"
	@echo "make bench     this server and its peers, measured side by side"
	@echo "make demo      serve the demo application"
	@echo "make clean     remove what the others leave behind, but .venv"

venv:
	python3 -m venv .venv
	.venv/bin/python -m pip install -e '.[dev]'
	@echo "now: . .venv/bin/activate"

check: format lint types coverage

format:
	$(PYTHON) -m ruff format --check .

lint:
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy

# Every process leaves a data file of its own (setup.cfg, [coverage:run]); a stale one would count.
coverage:
	$(PYTHON) -m coverage erase
	$(PYTHON) -m coverage run -m pytest
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

test:
	$(PYTHON) -m pytest

bench:
	$(PYTHON) -m benchmarks

demo:
	$(PYTHON) main.py '--lode:app->app'

clean:
	rm -rf build dist *.egg-info .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
