# make demo: set up and run the quickstart · make test: set up and run every test · make check: static checks, fast tests
# make nightly: the long searches of the guard's proofs · make mutants: how many small changes of the guard its tests notice
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
BESIDE := -n 2 --dist worksteal

.PHONY: demo test check nightly mutants setup clean

demo: .venv/run
	$(BIN)/bidtwin simulate configs/quickstart.yaml

test: .venv/test # what starts Ray does so alone: its processes are as many as the cores
	failed=0; \
	$(BIN)/pytest $(BESIDE) -m "not ray" || failed=1; \
	$(BIN)/pytest -m ray || failed=1; \
	exit $$failed

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(BESIDE) -m "not slow and not ray"

nightly: .venv/test
	$(BIN)/pytest --hypothesis-profile nightly --timeout 7200 tests/properties

mutants: .venv/mutants
	copy=$$(mktemp -d) && git archive HEAD | tar x -C $$copy && cd $$copy && \
	$(CURDIR)/$(BIN)/mutmut run --max-children 2 && $(CURDIR)/$(BIN)/mutmut results

setup: .venv/test

.venv/run: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/test: .venv/run
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,train,plots]'
	touch $@

.venv/mutants: .venv/test
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mutants]'
	touch $@

clean:
	rm -rf .venv build runs *.egg-info
