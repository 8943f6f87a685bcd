# `make demo` and `make test` each set up what they need in .venv: Python 3.11 or newer and a C++ compiler will do.
#
#   PYTHON=python3.12      the Python that .venv is made with
#   PIP_TORCH_ARGS=...     arguments for pip when it installs PyTorch, for a source with CPU builds for instance
#   FUZZ_ARGS=...          arguments for scripts/fuzz.py, such as --minutes 30 --seed 7 --only sounds images
#   PYTEST_ARGS=...        arguments for pytest; those of `make bench` are in benchmarks/suites/conftest.py

VENV := .venv
LOWEST := .venv-lowest
NEWEST := .venv-newest
# Tests of the runtime: those that import no other package of this project, and one that imports a constant.
RUNTIME_TESTS = tests/stages/test_audio_encoder.py $(shell grep -rLE '^(from|import) (export|benchmarks|demo)\b' tests --include='test_*.py')
BIN := $(VENV)/bin
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$name" -c '$(NEW_ENOUGH)' 2>/dev/null && echo "$$name" && break; done)
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
NATIVE_SOURCES := CMakeLists.txt $(wildcard vexpress_rt/native/CMakeLists.txt vexpress_rt/native/*.cpp vexpress_rt/native/*.hpp \
	vexpress_rt/native/cuda/*)

.PHONY: demo test test-lowest test-newest fuzz bench docs lint format dist setup clean

demo: $(VENV)/.runtime
	$(BIN)/python -m demo --output out

test: setup
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The runtime's tests with the lowest versions of its dependencies, in a separate environment with its own cache.
test-lowest:
	@test $(LOWEST)/.installed -nt constraints-lowest.txt || rm -rf $(LOWEST)
	PIP_CONSTRAINT="$(CURDIR)/constraints-lowest.txt" $(MAKE) setup VENV=$(LOWEST)
	@$(LOWEST)/bin/python scripts/check_versions.py constraints-lowest.txt
	TEST_CACHE=build/test-lowest $(LOWEST)/bin/python -m pytest $(RUNTIME_TESTS) $(PYTEST_ARGS)

# The same with the newest versions that pyproject.toml allows, those of packages that they need among them.
test-newest:
	$(MAKE) setup VENV=$(NEWEST)
	$(NEWEST)/bin/python -m pip install -qq --disable-pip-version-check --upgrade --upgrade-strategy eager --editable '.[test]'
	@$(NEWEST)/bin/python scripts/check_versions.py newest
	TEST_CACHE=build/test-newest $(NEWEST)/bin/python -m pytest $(RUNTIME_TESTS) $(PYTEST_ARGS)

# 30 s per input, because the CPU may be slow; the tests hold the limit of 10 s for photos.
fuzz: setup
	$(BIN)/python scripts/fuzz.py --minutes 2 --seed 1 --jobs 2 --seconds 30 $(FUZZ_ARGS)

bench: setup
	$(BIN)/python -m pytest benchmarks/suites $(PYTEST_ARGS)

# The site under build/site. A warning, such as a broken link, is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The sdist, the wheel that is built from it, and a video that the wheel makes in an environment of its own.
dist: setup
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python scripts/check_dist.py dist

setup: $(VENV)/.installed

# The stamps stand for finished steps, so that a second run starts at once and an interrupted one goes on.
$(VENV)/.created:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c '$(NEW_ENOUGH)' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	@$(PIP) --upgrade pip
	@touch $@

$(VENV)/.runtime: $(VENV)/.created pyproject.toml $(NATIVE_SOURCES)
	@echo "Compiling vexpress_rt and installing what it needs"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.torch: $(VENV)/.created scripts/install_torch.py
	@echo "Installing PyTorch for the exporter; this can take a few minutes"
	@$(BIN)/python scripts/install_torch.py $(PIP_TORCH_ARGS)
	@touch $@

$(VENV)/.export: $(VENV)/.torch pyproject.toml $(NATIVE_SOURCES)
	@echo "Compiling vexpress_rt and installing what it and the exporter need"
	@$(PIP) --editable '.[export]'
	@touch $(VENV)/.runtime $@

$(VENV)/.installed: $(VENV)/.export
	@echo "Installing what the tests, the benchmarks and the linters need, TensorRT for RTX among it"
	@$(PIP) --editable '.[export,test,bench,dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.runtime
	@echo "Installing what the documentation site is made with"
	@$(PIP) --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(NEWEST) build dist out .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
