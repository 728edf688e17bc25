# make run     the service with its private store on http://127.0.0.1:8080, data in ./var
# make test    every check and test there is; the last line is the test runner's
# make build   only .venv, with .venv/bin/stockade in it
# make bench   benchmarks, about 20 minutes       make bench-peers   beside what shops write
# make loadtest   a flash sale, audited
# make proof   the property tests, searching for longer, and everything killed ROUNDS times
# make clean   away with all that was built; ./var, the data, stays

PYTHON ?= python3
BIN := .venv/bin
ROUNDS ?= 3
BUYERS ?= 5000
# Test files that are run at once, each with servers of its own.
JOBS ?= 2
KERNEL := $(wildcard core/*/_*.pyx core/kernel/*.pxd)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: build run test bench bench-peers loadtest proof clean
.DELETE_ON_ERROR:

build: .venv/.built

# What is missing on this machine is said in one line, before anything is made.
.venv/.locked: requirements.lock
	@command -v $(PYTHON) >/dev/null || { \
	  echo "stockade cannot be built: there is no $(PYTHON): install Python >= 3.11" >&2; exit 1; }
	@$(PYTHON) .ci/machine.py
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	@touch $@

# Everything that the package needs is locked above, so nothing is resolved or fetched here.
.venv/.built: .venv/.locked pyproject.toml setup.py $(KERNEL)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: build
	@exec $(BIN)/stockade serve --data ./var

test: build
	$(BIN)/ruff check
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint core  # it runs pycodestyle by name
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

bench: build
	$(BIN)/python -m pytest bench --quiet --benchmark-enable --benchmark-columns=median,iqr,rounds
	$(BIN)/python -m bench --rounds 3

bench-peers: build
	$(BIN)/python -m bench peers --rounds 5

loadtest: build
	$(BIN)/python -m loadtest flash-sale --set buyers=$(BUYERS) --output var/loadtest

proof: build
	$(BIN)/python -m pytest tests/property --hypothesis-profile=proof
	$(BIN)/python -m pytest tests/faults --rounds $(ROUNDS)

clean:
	rm -rf .venv build dist *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f core/*/_*.c core/*/_*.so
	find core api bench loadtest tests -name __pycache__ -type d -prune -exec rm -rf {} +
