# Every target makes its own virtual environment when there is none.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= out/demo

# The Tritons that every kernel is compiled under beside the pinned one. CI takes the oldest that is
# supported, whose interpreter runs kernels too, and that of today's GPU images.
OLDEST     := 3.3.0
CI_TRITONS := $(OLDEST) 3.6.0
EVERY      := tests/kernels/test_every_operator.py
TRITONS    := $(OLDEST) 3.3.1 3.4.0 3.5.0 3.5.1 3.6.0 3.7.0 3.7.1 3.8.0

# Two processes of tests share the cores; more threads each would only fight over them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

.PHONY: help demo test test-fast test-kernels test-tritons records mmdetection tritons bench lint ledger columns clean

help:
	@sed -n 's/^## //p' Makefile

$(STAMP): setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,cli]'
	touch $@

# The demo needs torch, what draws, and what reads images and annotations; no linter, no test.
$(VENV)/.installed-demo: setup.py constraints.txt
	@echo "Installing fastdet and torch into $(VENV); the first time this takes minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cli]'
	@touch $@

# A Triton before the pinned one lies in a folder of its own, which goes to the front of the path,
# with a NumPy that its interpreter knows (2.4 made an error of what Triton 3.6 does).
.venv-triton-%/.installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(@D) triton==$* numpy==2.3.5
	touch $@

compile-%: .venv-triton-%/.installed
	PYTHONPATH=.venv-triton-$* OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.compile_all
.PRECIOUS: .venv-triton-%/.installed

## make demo     train a small detector on drawn shapes, a minute on a CPU; the picture is in out/demo
demo: $(VENV)/.installed-demo
	@$(BIN)/fastdet demo --out $(OUT)

## make test     everything CI runs: lint, types, tests, kernels under the interpreter, ledger,
##               and kernels under older Tritons
test: lint test-fast test-kernels test-tritons

test-fast: $(STAMP)
	$(PYTEST) -n 2 tests

test-kernels: $(STAMP)
	TRITON_INTERPRET=1 $(PYTEST) -n 2 -m kernel tests --ignore=$(EVERY)

test-tritons: $(CI_TRITONS:%=compile-%)
	TRITON_INTERPRET=1 PYTHONPATH=.venv-triton-$(OLDEST) $(PYTEST) -n 2 $(EVERY)

## make records  every golden record of a detector whole, every model of the zoo built
records: $(STAMP)
	$(PYTEST) -n 2 -m "records or not records" tests/detectors/test_records.py

## make mmdetection  MMDetection itself on fastdet: every record and model of the zoo, training
mmdetection: $(STAMP)
	$(PYTEST) -n 2 -m "records or not records" tests/mmdetection

## make tritons  compile every kernel under every supported version of Triton
tritons: $(TRITONS:%=compile-%) $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.compile_all

## make lint     ruff and mypy
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

## make bench    the benchmarks, on whatever device is there, below ten minutes on a CPU; one page
##               of HTML in benchmarks/results/new
bench: $(STAMP)
	$(BIN)/python -m benchmarks

## make ledger   compile every kernel ahead of time and rewrite benchmarks/ledger/*.json
ledger: $(STAMP)
	$(BIN)/python -m benchmarks.ledger --update

## make columns  the ledger of sm_90 under every supported Triton, a column each
ledger-%: .venv-triton-%/.installed
	PYTHONPATH=.venv-triton-$* OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.ledger --update \
		--time --targets sm_90 --folder out/ledger/$* || test -d out/ledger/$*

columns: $(TRITONS:%=ledger-%)
	$(BIN)/python -m benchmarks.ledger --targets sm_90 --diff $(TRITONS:%=out/ledger/%)

clean:
	rm -rf build dist out *.egg-info .venv-triton-*
