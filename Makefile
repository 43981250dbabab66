# Everything sets itself up in .venv: nothing but python3 (>= 3.11), pip and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# What is compiled once need not be compiled by each of the hundreds of servers and commands that tests start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo serve test check bench bench-blobs quality clean

demo: $(READY)
	$(BIN)/tidegate demo $(DEMO_ARGS)

serve: $(READY)
	$(BIN)/tidegate serve $(SERVE_ARGS)

# Many tests wait for servers and devices: five files at a time, in their order, so that the long ones come early.
test: $(READY)
	$(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m bench.ingest $(BENCH_ARGS)

# How fast devices fetch a release, beside bare subscribers: some six minutes of two cores that have nothing else to do.
bench-blobs: $(READY)
	$(BIN)/python -m bench.blobs --out bench/results $(BENCH_ARGS)

# One in twenty of the campaigns behind bench/results/halt_quality.md, played anew: do they still end as they did?
quality: $(READY)
	$(BIN)/python -m bench.halt_quality --fraction 0.05 --jobs 2 --out var --against bench/results $(QUALITY_ARGS)

# Where python3-venv (ensurepip) is missing, an outside pip fills the environment.
$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
		|| { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV); }
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; \
		then $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,dev]'; \
		else $(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check -e '.[embedded,dev]'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) var build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
