# Every target makes the one virtual environment it needs (.venv), and again when the pins change.
# Nothing has to be activated. PYTHON names the interpreter to make it from: 3.11 or newer.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo
REFERENCE ?= runs/goal-suite
DATA   ?=
INSTRUCTIONS ?=

.PHONY: demo reference test check docs readme bench clean
.DEFAULT_GOAL := test

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'mnprobe needs Python 3.11 or newer, this is ' + sys.version + '; make PYTHON=/path/to/python3.11')"
	$(PYTHON) -m venv --clear $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.ready
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/mnprobe demo --run "$(RUN)" $(if $(DATA),--data "$(DATA)") $(if $(INSTRUCTIONS),--instructions "$(INSTRUCTIONS)")

# The reference study (docs/study.md): about two hours on two cores; run again, it goes on where it was stopped.
reference: $(VENV)/.ready
	$(BIN)/mnprobe demo --preset reference --run "$(REFERENCE)"

# The tests start many Python processes: compiled modules are kept, also where the environment says otherwise.
test: $(VENV)/.ready
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/build.py build/docs

docs: $(VENV)/.ready
	$(BIN)/python docs/build.py build/docs

# Numbers, answers and the picture in README.md, docs/ and reports/ from the studies in reports/; a picture needs Chromium.
readme: $(VENV)/.ready
	$(BIN)/python docs/readme.py

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
