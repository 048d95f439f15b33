# make setup|demo|test|check|bench|docs|clean        everything lives in .venv/
PYTHON ?= python3
BIN    := .venv/bin
# Results of the demo; say `make demo RESULTS=elsewhere` to keep several.
RESULTS ?= results

.PHONY: setup demo test check bench docs clean
.DEFAULT_GOAL := demo

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,dev,docs]'
	@touch $@

demo: setup            ## the main job: a sweep of five strategies on real images, ranked
	$(BIN)/hpcbench submit sweeps/quickstart.yaml --executor local --results $(RESULTS)

test: setup
	$(BIN)/python -m pytest

check: setup           ## format, lint, types, layers, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

bench: setup
	$(BIN)/python -m pytest benchmarks -s

docs: setup
	$(BIN)/mkdocs build --strict --site-dir build/site

clean:                 ## removes what was built; results stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
