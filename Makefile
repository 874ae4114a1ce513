# Every target makes its own virtual environment when there is none.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= out/features

# Two processes of tests share the cores; more threads each would only fight over them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

.PHONY: help demo test test-fast test-kernels bench lint ledger clean

help:
	@sed -n 's/^## //p' Makefile

$(STAMP): setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,cli]'
	touch $@

## make demo     run a Swin-T and FPN on a photograph; the picture is in out/features
demo: $(STAMP)
	$(BIN)/fastdet features --out $(OUT)

## make test     everything CI runs: lint, types, tests, kernels under the interpreter, ledger
test: lint test-fast test-kernels

test-fast: $(STAMP)
	$(PYTEST) -n 2 tests

test-kernels: $(STAMP)
	TRITON_INTERPRET=1 $(PYTEST) -n 2 -m kernel tests

## make lint     ruff and mypy
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

## make bench    the benchmarks, on whatever device is there
bench: $(STAMP)
	$(BIN)/python -m pytest -q benchmarks/test_bench.py
	$(BIN)/python -m benchmarks

## make ledger   compile every kernel ahead of time and rewrite benchmarks/ledger/*.json
ledger: $(STAMP)
	$(BIN)/python -m benchmarks.ledger --update

clean:
	rm -rf build dist out *.egg-info
