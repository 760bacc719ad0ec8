# make demo   draw portraits, train, show the errors        make test   everything CI checks
# make slow   the heavy cells and tests too                  make prepare   after changing a notebook
# make outputs   run every cell and store what it shows
# make lint   unused and undefined names                make docs   the site, with Quarto
PYTHON ?= $(if $(filter Windows_NT,$(OS)),python,python3)
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.PHONY: demo test slow outputs prepare install lint docs
demo: install
	$(BIN)/genderres demo

# As many processes as processors, so a thread each
test slow: export OMP_NUM_THREADS = 1
test: lint
	$(BIN)/nbdev-test nbs --timing
	$(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal tests

slow: install
	$(BIN)/nbdev-test nbs --timing --flags slow
	SLOW=1 $(BIN)/python -m pytest -q -m slow tests

outputs: install
	PYTHONWARNINGS=ignore $(BIN)/python -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.iopub_timeout=60 nbs/[0-9]*.ipynb nbs/tutorials/*.ipynb nbs/explanations/*.ipynb nbs/index.ipynb
	$(MAKE) prepare

prepare: install
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/python -m nbconvert --config nbs/readme_config.py

lint: install
	$(BIN)/ruff check --quiet --output-format concise --isolated --select F401,F811,F821,F841 --per-file-ignores genderres/all.py:F401,genderres/classifier.py:F811,genderres/audit.py:F401 genderres tests benchmarks pretrain

docs: install
	@command -v quarto > /dev/null || { echo 'make docs needs Quarto, and there is no quarto on the path. https://quarto.org/docs/get-started/ says how to install it.' >&2; exit 1; }
	$(BIN)/nbdev-docs

install: $(VENV)/installed
$(VENV)/installed: settings.ini setup.py pyproject.toml genderres/__init__.py | $(VENV)/pyvenv.cfg
	@echo 'Installing into $(VENV): PyTorch is large, this can take some minutes'
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	$(BIN)/python -c "open('$(VENV)/installed', 'w')"

# An environment that is there keeps its Python; one half made is made again
.DELETE_ON_ERROR:
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c "import sys; low = next(o.split()[2] for o in open('settings.ini') if o.startswith('min_python')); sys.version_info >= tuple(map(int, low.split('.'))) or sys.exit('This is Python %d.%d; %s or later is needed. If there is another, name it: make PYTHON=python%s' % (sys.version_info[:2] + (low, low)))"
	$(PYTHON) -m venv $(VENV)
