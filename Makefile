# `make demo` and `make test` do everything from a fresh clone; they create .venv if needed.
PYTHON ?= python3
CONSTRAINTS ?= -c constraints.txt
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-slow test-slicer slicer-pictures slicer-client check lint types docs bench soak clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	# a client to test against; what it depends on belongs to its server
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps monailabel==0.8.5
	touch $@

demo: setup
	$(BIN)/segkit demo --out demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: setup
	$(BIN)/python -m pytest -m "slow or gpu" -n 0

# real MRML code in an environment of its own: slicer-core pins vtk and takes about 1 GB
SLICER_VENV := .venv-slicer

test-slicer: setup $(SLICER_VENV)/.installed
	SEGKIT_PYTHON=$(abspath $(BIN)/python) $(SLICER_VENV)/bin/python -m pytest \
		-c tests/slicer/mrml/pytest.ini --confcutdir=tests/slicer/mrml tests/slicer/mrml

$(SLICER_VENV)/.installed: Makefile
	test -d $(SLICER_VENV) || $(PYTHON) -m venv $(SLICER_VENV)
	$(SLICER_VENV)/bin/pip install --quiet --disable-pip-version-check \
		slicer-core==5.12.4.0 numpy pytest matplotlib
	touch $@

slicer-pictures: setup $(SLICER_VENV)/.installed
	SEGKIT_PYTHON=$(abspath $(BIN)/python) $(SLICER_VENV)/bin/python tests/slicer/mrml/render.py

slicer-client:
	cp segkit/client/*.py integrations/slicer/SegKit/SegKit/SegKitLib/client/

check: lint types docs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: setup
	$(BIN)/python -m benchmarks.run --cpu

# an hour at the pace of four people, against one server
soak: setup
	$(BIN)/python -m benchmarks.soak --minutes 60

clean:
	rm -rf $(VENV) $(SLICER_VENV) build dist site demo .pytest_cache .mypy_cache .ruff_cache
