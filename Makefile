# make demo   draw portraits, train, show the errors        make test   everything CI checks
# make slow   the heavy notebook cells too                  make prepare   after changing a notebook
PYTHON ?= $(if $(filter Windows_NT,$(OS)),python,python3)
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.PHONY: demo test slow prepare install
demo: install
	$(BIN)/python -m genderres.experiment

test: install
	$(BIN)/nbdev-test nbs --n-workers 1 --timing
	$(BIN)/python -m pytest -q tests

slow: install
	$(BIN)/nbdev-test nbs --n-workers 1 --timing --flags slow

prepare: install
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/python -m nbconvert --config nbs/readme_config.py

install: $(VENV)/installed
$(VENV)/installed: settings.ini setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	$(BIN)/python -c "open('$(VENV)/installed', 'w')"
