# make run    sets up and runs the main experiment: ten nodes, DeCAF against FedAvg, real text
# make test   sets up and runs the tests: all fast ones, and one run of each kind of engine
# make test-fast                        omits those with an engine or a pretrained model; make test-all runs all
# make test-versions                    runs the fast ones on the lowest and the newest versions (requires uv)
# make docs   builds the site in build/docs, and installs the required packages
# make benchmark                        speed against alternatives, in minutes; BENCHMARK=--large takes longer
# make benchmark-peers                  speed of other frameworks, which it installs in build/peers
#
# Set-up happens once, in .venv, and is repeated only when its inputs have changed.

PYTHON ?= python3
CONF ?= conf/quickstart.toml
NODES ?= 10
BIN := .venv/bin
READY := .venv/.ready
DOCS := .venv/.docs
# Each file of tests runs in one of these processes, so that its tests share their fixtures.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: setup run test test-fast test-versions check test-all docs benchmark benchmark-peers clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt requirements-demo.txt requirements-quantization.txt $(wildcard demo/*.py)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is required; choose it with make PYTHON=python3.11"; exit 1; }
	@echo "Setting up .venv: two to four minutes, most of it downloads"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-demo.txt
	$(BIN)/python -m demo
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv/quantization \
		--requirement requirements-quantization.txt
	@touch $(READY)

run: $(READY)
	$(BIN)/flwr-decaf run $(CONF) --nodes $(NODES)

test: $(READY)
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not engine and not pretrained"

test-all: $(READY) $(DOCS)
	$(BIN)/python -m pytest -m ""

test-versions: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" .ci/versions lowest
	PATH="$(CURDIR)/$(BIN):$$PATH" .ci/versions newest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(PARALLEL)

docs: $(DOCS)
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs
	@echo "Open build/docs/index.html"

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $(DOCS)

benchmark: $(READY)
	for name in mixing engine prefix relay memory startup evaluation report scale; do \
		OMP_WAIT_POLICY=passive $(BIN)/python -m benchmarks.$$name $(BENCHMARK) || exit 1; \
	done

benchmark-peers: $(READY)
	$(BIN)/python -m benchmarks.peers

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
