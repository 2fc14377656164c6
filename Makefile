# The Python that makes the environment; `make bench PYTHON=python3.12` gets the newest JAX.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test test-slow test-all lint notebooks test-notebooks bench bench-gpu clean

demo: $(VENV)/demo.stamp
	$(RUN) -m jaxode demo

# The fast tests touch every public name, solver, sensitivity and model; the slow ones are sweeps.
test: $(VENV)/dev.stamp
	$(RUN) -m pytest -m "not slow"

test-slow: $(VENV)/dev.stamp
	$(RUN) -m pytest -m slow

test-all: $(VENV)/dev.stamp
	$(RUN) -m pytest

lint: $(VENV)/dev.stamp
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)

# Executes the notebooks and writes their outputs; `make notebooks NAMES="00 03"` some of them.
notebooks: $(VENV)/notebooks.stamp
	$(RUN) -m notebooks $(NAMES)

# Their fast forms, and whether the outputs are of the sources.
test-notebooks: $(VENV)/dev.stamp
	$(RUN) -m pytest notebooks/test_notebooks.py --dist load

bench: $(VENV)/bench.stamp
	$(RUN) -m benchmarks

# Installs nothing, since an environment made here would have JAX without CUDA, and a machine with a
# GPU may have no network: the one that is there or, say, `make bench-gpu RUN=python`.
bench-gpu:
	$$(command -v $(RUN) || echo $(PYTHON)) -m benchmarks.gpu $(ARGS)

# A stamp per extra, renewed when the requirements change.
$(VENV)/%.stamp: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache
