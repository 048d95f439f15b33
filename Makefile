# make setup|demo|test|test-slurm|test-containers|pin-base|check|bench|bench-slurm|docs|translations|slurm-up|slurm-down|clean        everything lives in .venv/
PYTHON ?= python3
BIN    := .venv/bin
# Results folder of the demo: `make demo RESULTS=elsewhere` keeps several.
RESULTS ?= results

.PHONY: setup demo test test-slurm test-containers pin-base check bench bench-slurm docs translations slurm-up slurm-down clean
.DEFAULT_GOAL := demo

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,dev,docs]'
	@touch $@

demo: setup            ## a sweep of five strategies on real images, ranked
	$(BIN)/hpcbench submit sweeps/quickstart.yaml --executor local --results $(RESULTS)

test: setup             ## all tests that need no root, side by side on up to four cores
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --durations 10

# A real Slurm on this machine, with its own folder and ports. HPCBENCH_LAB_ACCOUNTING=0: without accounting.
slurm-up:              ## a Slurm cluster of two nodes for trying out: needs root on Debian
	bash slurm/lab/up.sh

slurm-down:
	bash slurm/lab/down.sh

test-slurm: setup      ## tests on a real Slurm, which they start and end
	@[ "$$(id -u)" = 0 ] || { echo "test-slurm: not run: only root can start a cluster on this machine"; exit 0; }; \
	$(BIN)/python -m pytest tests/slurm -m 'slurm and not speed'

test-containers: setup ## images really built and run by podman, Docker and Apptainer: root on Debian, 15 minutes
	$(BIN)/python -m pytest tests/containers/real/check_*.py

pin-base:              ## add the digest that the registry has now to the base image; changes nothing if it cannot be reached
	$(PYTHON) containers/pin_base.py Dockerfile apptainer.def

check: setup           ## format, lint, types, layers, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

bench: setup
	$(BIN)/python -m pytest benchmarks -s

bench-slurm: setup     ## what hpcbench adds to Slurm's own times: root on Debian
	$(BIN)/python -m pytest tests/slurm -m speed -s

docs: setup
	$(BIN)/mkdocs build --strict --site-dir build/site

translations: setup    ## new texts of reports into the catalogues, which are compiled
	$(BIN)/python -m tests.report.translation_catalogues

clean:                 ## removes what was built; results stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
