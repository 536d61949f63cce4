# Two commands: `make demo` runs the main job on the embedded data, `make test` the fast tests.
# The environment is made once; it is made again only when its files change.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# Python keeps the modules that it compiles, which each process of the tests imports.
test test-all test-floors mutation: export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-all test-floors mutation lint docs notebooks bench clean

demo: $(STAMP)
	$(RUN) -m experiments.train --rounds=20 --workdir=runs/demo --overwrite

test: $(STAMP)
	$(RUN) -m pytest -n auto --dist=worksteal -m "not slow"

test-all: $(STAMP)
	$(RUN) -m pytest -n auto --dist=worksteal

# The oldest packages that setup.cfg allows. Some of them warn, which is no failure here.
test-floors:
	$(PYTHON) -m venv build/floors
	$(PYTHON) -m tests.floors > build/floors/requirements.txt
	build/floors/bin/python -m pip install --quiet --requirement build/floors/requirements.txt
	build/floors/bin/python -m pytest -n auto --dist=worksteal -m "not slow" -W default

mutation: $(STAMP)
	$(RUN) -m tests.mutations.systematic

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(STAMP)
	$(RUN) -m pip install --quiet --requirement docs/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet

notebooks: $(STAMP)
	$(RUN) -m pip install --quiet --requirement docs/requirements.txt
	$(RUN) docs/notebooks.py

bench: $(STAMP)
	$(RUN) -m benchmarks.rounds

$(STAMP): requirements.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed, found " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) runs/demo .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
