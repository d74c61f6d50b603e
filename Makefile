# Two commands: `make demo` and `make test`. Each makes .venv first where there is none.
PYTHON ?= python3
EXTRAS ?= test
VENV := .venv
BIN := $(VENV)/bin
DEMO_CONFIG := configs/Demo/synthetic.yml
DEMO_DATA := datasets/synthetic
# In the order of the folders: the small files of tests/utils come last, so that both processes end together.
PYTEST := pytest -q -n 2 --dist loadfile --no-loadscope-reorder
OLDEST_PYTHON ?= python3.10
NEWEST_PYTHON ?= python3.14

# Containers often forbid byte code. Without it each command that starts compiles the sources of PyTorch, for seconds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo study test lint test-oldest test-newest mutate clean

help:
	@echo "make demo   draw synthetic data sets, train MetaBIN on five sources, test on four unseen targets"
	@echo "make study  four ways to normalize, three seeds each, on seen and unseen synthetic domains: less than an hour"
	@echo "make test   run the tests"
	@echo "make lint   look for faults and for lines that are not formatted, with ruff"
	@echo "make test-oldest, make test-newest   run them with exactly the oldest versions that pyproject.toml allows, and with"
	@echo "            the newest, in virtual environments of their own (.venv-oldest, .venv-newest)"
	@echo "make mutate FILE=fastreid/... [TESTS=\"tests/...\"] [SAMPLE=20]   break a file in small ways, one at a time, in a copy,"
	@echo "            and name those that its tests do not notice"
	@echo "make clean  remove the virtual environments and what was built"
	@echo "PYTHON=python3.x selects the interpreter for a new .venv (OLDEST_PYTHON, NEWEST_PYTHON: of these two)"

install: $(VENV)/installed

# The stamp is written last, so that an installation that was interrupted is done again.
$(VENV)/installed: pyproject.toml setup.py fastreid/evaluation/rank_cylib/rank_cy.pyx
	@test -x $(BIN)/python || { echo "creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else "Python 3.10 or newer is needed, found %d.%d: make PYTHON=python3.x" % v[:2])'
	@echo "installing packages into $(VENV) (about 100 s with a warm cache, several GB)"
	@# Byte code is made of the modules that are imported, not of all that PyTorch brings.
	@$(BIN)/python -m pip install --quiet --no-compile --upgrade-strategy only-if-needed -e '.[$(EXTRAS)]'
	@touch $@

demo: install
	@DEMO_CONFIG=$(DEMO_CONFIG) DEMO_DATA=$(DEMO_DATA) PYTHON=$(BIN)/python sh demo/run_demo.sh

study: install
	@PYTHON=$(BIN)/python sh demo/run_study.sh

test: install
	$(BIN)/python -m $(PYTEST)

lint: install
	@$(BIN)/python -c 'import ruff' 2> /dev/null || $(BIN)/python -m pip install --quiet -e '.[lint]'
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

test-oldest test-newest: test-%: .venv-%/installed
	.venv-$*/bin/python -m $(PYTEST)

# Every "name>=version" of pyproject.toml as name==version.
.venv-oldest/constraints.txt: pyproject.toml
	@test -x $(@D)/bin/python || $(OLDEST_PYTHON) -m venv $(@D)
	@grep -oE '[A-Za-z][A-Za-z0-9-]*>=[0-9.]+' $< | sed 's/>=/==/' > $@

# Nothing is held back.
.venv-newest/constraints.txt: pyproject.toml
	@test -x $(@D)/bin/python || $(NEWEST_PYTHON) -m venv $(@D)
	@: > $@

.venv-%/installed: .venv-%/constraints.txt setup.py fastreid/evaluation/rank_cylib/rank_cy.pyx
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --upgrade -c $< --build-constraint $< -e '.[test,search,export]'
	@touch $@

mutate: install
	$(BIN)/python tools/mutate.py $(FILE) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(TESTS),--tests $(TESTS))

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest build *.egg-info fastreid/evaluation/rank_cylib/*.so fastreid/evaluation/rank_cylib/*.c
