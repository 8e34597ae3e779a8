# Fingerpost: `make demo` and `make test` are all a newcomer needs; both set up what they use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files of tests that run side by side: one more than two cores, since a third of their time they wait for processes.
# Of the cores of a container the system tells those of the machine.
JOBS ?= 3
# Whole files, in the order that tests/conftest.py gives them. Tests start hundreds of processes: each would compile the
# program anew where Python may not write bytecode.
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest
SIDE_BY_SIDE = -n $(JOBS) --dist loadfile --no-loadscope-reorder
# uv installs the pinned set in seconds; pip does the same in minutes where uv cannot run or has no index of its own.
# Compiled once here: where Python may not write bytecode, every start would compile its libraries anew (0.5 s for `--help`).
INSTALL = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt $(1) \
	|| { $(BIN)/python -m pip install --quiet 'pip>=25.1' && $(BIN)/python -m pip install --quiet -c constraints.txt $(1); }
# What `make setup` installs, and what developers work with beside it.
PROGRAM := -e .[platform,postgres,s3,demo]
EVERYTHING := -e .[platform,postgres,s3,demo,dask,traces] --group dev

.PHONY: setup demo fleet chaos test check roles containers manifests fuzz fuzz-native sbom audit docs system-packages lint format constraints clean

setup: $(VENV)/.installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing the program into $(VENV) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(call INSTALL,$(PROGRAM))
	@$(BIN)/fingerpost envoy build >/dev/null || echo "routing by prediction needs the native picker; all else works without it" >&2
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the development tools into $(VENV) ..." >&2
	@$(call INSTALL,$(EVERYTHING))
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/python -m examples.demo $(ARGS)

# A fleet of machines that share nothing but a network, each a network namespace; needs root, or user namespaces.
fleet: $(VENV)/.installed
	@$(BIN)/python -m examples.fleet $(ARGS)

# A small platform under load whose parts are killed, cut off and damaged in turn; needs root, or user namespaces.
chaos: $(VENV)/.installed-dev
	@$(BIN)/python -m benchmarks chaos $(ARGS)

test: $(VENV)/.installed-dev
	@$(PYTEST) $(SIDE_BY_SIDE) $(ARGS)

# The property tests alone, with examples that were never drawn before; SEED= draws those of a run again.
fuzz: SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))
fuzz: $(VENV)/.installed-dev
	@echo "make fuzz SEED=$(SEED)    draws these examples again" >&2
	@$(PYTEST) -m hypothesis --hypothesis-profile=fuzz --hypothesis-seed=$(SEED) $(SIDE_BY_SIDE) $(ARGS) \
		|| { echo "make fuzz SEED=$(SEED)    draws these examples again" >&2; exit 1; }

# The native picker's parsers under sanitizers, ten minutes each unless SECONDS= says else; what it finds of use is kept
# in tests/corpus/native.
fuzz-native: SECONDS := 600
fuzz-native: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.support.native_fuzz $(SECONDS)

# PostgreSQL, nginx, Apache, HAProxy, Chromium and Prometheus for the tests of them, where they are absent; needs root or sudo, and goes on without.
system-packages:
	@tests/system_packages.sh

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

# The inner loop of a developer: style, types, layers, and the tests that start no process.
check: lint
	@$(PYTEST) $(SIDE_BY_SIDE) -q -m unit $(ARGS)

# The wheel in a bare environment for each role, and each role at work in it; says what each weighs.
roles: $(VENV)/.installed-dev
	@$(PYTEST) tests/roles --roles -q -s $(ARGS)

# The Containerfile's steps, each followed in a bare root, and each role at work in its own; needs root and debootstrap.
containers: $(VENV)/.installed-dev
	@$(PYTEST) tests/containers --containers -q -s $(ARGS)

# The files for clusters without Helm, made from the chart.
manifests: $(VENV)/.installed-dev
	@$(BIN)/python deploy/kubernetes/render.py

# What the pinned set is made of, as CycloneDX JSON.
sbom: $(VENV)/.installed-dev
	@$(BIN)/python deploy/supply_chain.py sbom dist/sbom.json

# Fails if a weakness of a pinned package is known; says so, and does not fail, where that cannot be asked.
audit: $(VENV)/.installed-dev
	@$(BIN)/python deploy/supply_chain.py audit

# The documentation as a site, with every link checked.
docs: $(VENV)/.installed-dev
	@$(BIN)/properdocs build -f docs/site.yml --strict

format: $(VENV)/.installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Resolves the pinned set anew, for Python 3.11 and later; what is pinned and still fits stays as it is.
constraints: | $(VENV)/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra platform --extra postgres --extra s3 --extra demo --extra dask --extra traces --group dev --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml build-tools.in -o constraints.txt

clean:
	rm -rf $(VENV) .fingerpost build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
