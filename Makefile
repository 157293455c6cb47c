# One file that builds, runs and checks everything; every target installs what it needs itself.
# Needed beforehand: Python >= 3.11, Rust (rust-toolchain as in Cargo.toml), a C compiler, GNU make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE := python/forebay/_engine.abi3.so

# What the engine is built of: sources, those that spec/ determines among them, build scripts and manifests. The
# simulator, the differential test, tests, examples, benches and what only fuzz targets see are no part of it.
NOT_BUILT := -path crates/forebay-sim/src -o -path crates/forebay-diff/src -o -name tests -o -name examples -o -name 'tests.rs' -o -name benches -o -name 'fuzz_entry*'
RUST_SOURCES := $(shell find crates \( $(NOT_BUILT) \) -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print)
RUST_SOURCES += Cargo.toml Cargo.lock

# release, or quick: built in a third of the time, runs slower.
PROFILE ?= release

export PIP_QUIET := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := build

.PHONY: build
build: $(ENGINE) ## a release build into .venv, with the `forebay` command

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("forebay needs Python 3.11 or newer; name one with PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.maturin: | $(BIN)/python
	$(BIN)/pip install maturin==1.16.0
	@touch $@

# The SQL grammar is C code that bindgen binds, which takes libclang and the headers of the C compiler. Both are named in
# cargo's own settings, so that cargo by itself finds them from then on.
LIBCLANG := .cargo/config.toml
.PHONY: libclang
libclang: $(LIBCLANG) ## what a plain `cargo build` needs

$(LIBCLANG): | $(BIN)/python
	$(BIN)/pip install --no-deps --upgrade --target .cache/libclang libclang==18.1.1
	@mkdir -p $(@D)
	@printf '%s\n' '# Written by `make libclang`: where bindgen finds libclang and headers. What the environment says goes first.' \
	    '[env]' 'LIBCLANG_PATH = { value = ".cache/libclang/clang/native", relative = true }' \
	    "BINDGEN_EXTRA_CLANG_ARGS = \"-isystem $$($(CC) -print-file-name=include)\"" >$@

# maturin installs what the command needs at run time and leaves what is there already.
$(ENGINE): $(RUST_SOURCES) pyproject.toml | $(VENV)/.maturin $(LIBCLANG)
	$(BIN)/maturin develop -q --profile $(PROFILE) --extras up,auth-query
	@echo $(PROFILE) >$(VENV)/.profile
	@touch $@

.PHONY: run
run: $(ENGINE) ## an embedded PostgreSQL with forebay before it; RUN_ARGS='--port 7432'
	$(BIN)/forebay up $(RUN_ARGS)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name about; do printf '%-12s %s\n' "$$name" "$$about"; done

# ---- checks ----

$(VENV)/.test: pyproject.toml tools/requirements.py | $(BIN)/python
	$(BIN)/python tools/requirements.py test | $(BIN)/pip install -r /dev/stdin
	@touch $@

$(VENV)/.lint: pyproject.toml tools/requirements.py | $(BIN)/python
	$(BIN)/python tools/requirements.py lint test | $(BIN)/pip install -r /dev/stdin
	@touch $@

# Processes that run Python tests, each with servers of its own. Tests wait more than they compute: three keep two cores busy.
PYTEST_WORKERS ?= 3

# Needs cargo and Python only. PYTEST_ARGS and CARGO_TEST_ARGS narrow it down.
.PHONY: test test-rust test-python
test: test-rust test-python ## every test but those marked slow

test-rust: | $(LIBCLANG)
	cargo test --workspace --features forebay-sim/planted-bugs --quiet $(CARGO_TEST_ARGS)

test-python: $(ENGINE) $(VENV)/.test
	$(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) -m "not slow" $(PYTEST_ARGS)

.PHONY: lint
lint: style ## style, and licences, bans and sources of all crates
	tools/deny.sh

# What of `make lint` needs nothing but cargo and Python.
.PHONY: style
style: $(ENGINE) $(VENV)/.lint | $(LIBCLANG) ## formatting, lints, types and generated files
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/mypy
	MYPYPATH=python $(BIN)/python -m mypy.stubtest forebay._engine --ignore-disjoint-bases --concise
	$(BIN)/python tools/gen.py --check

.PHONY: gen
gen: ## what is generated from spec/*.toml
	$(PYTHON) tools/gen.py

# SEED=N plays one seed; SEEDS=A..B a range.
.PHONY: sim
sim: | $(LIBCLANG) ## the simulator: make sim SEED=88213
	cargo run --quiet --package forebay-sim -- $(if $(SEEDS),--seeds $(SEEDS),--seed $(or $(SEED),1)) $(SIM_ARGS)

# SCALING_ARGS='--workers 1,8 --cases even --service-us 100 --json FILE'; without --workers 1 to 64.
.PHONY: scaling
scaling: | $(LIBCLANG) ## fairness, waits and messages of 1 to 64 workers, simulated, beside one queue
	cargo run --quiet --package forebay-sim -- scaling $(SCALING_ARGS)

# N programs out of SEED, on PostgreSQL PG, through pools of LEVEL (several: LEVEL='safe strict').
.PHONY: diff
diff: $(ENGINE) $(VENV)/.test ## the same programs direct and through forebay: make diff N=500 SEED=1 PG=18 LEVEL=safe
	$(BIN)/python -m tests.diff.run --pg $(or $(PG),18) $(foreach level,$(LEVEL),--level $(level)) -- run --programs $(or $(N),500) --seed $(or $(SEED),1) $(DIFF_ARGS)

# A build with the bugs in it is made apart, in target/planted. PLANTED_ARGS='--bug pin-ignored' plants one.
.PHONY: diff-planted
diff-planted: $(ENGINE) $(VENV)/.test ## the proof that the differential test finds bugs: each is planted in turn
	$(BIN)/python -m tests.diff.planted --pg $(or $(PG),18) $(PLANTED_ARGS)

# Through other poolers: CASES_ARGS='--pooler pgbouncer', or --at HOST:PORT.
.PHONY: cases
cases: $(ENGINE) $(VENV)/.test ## how many cases of the page on transaction mode are answered otherwise than by PostgreSQL
	$(BIN)/python -m tests.cases.run $(CASES_ARGS)

# Suites of others, or programs that use a driver in earnest; downloaded into .cache/drivers. ONLY=asyncpg,django.
.PHONY: drivers
drivers: $(ENGINE) $(VENV)/.test ## suites of drivers and frameworks, direct and through forebay: make drivers ONLY=asyncpg,django
	$(BIN)/python -m tests.software.run --only "$(ONLY)" $(DRIVERS_ARGS)

# Arguments of benches/poolbench.py: make bench BENCH_ARGS='--rounds 5 --workloads select,many'.
BENCH_ARGS ?=
BENCH_OUT ?= benches/results/$(shell date +%Y%m%d-%H%M%S).jsonl

# Figures of a quick build say nothing.
.PHONY: is-release
is-release: $(ENGINE)
	@! grep -qsvx release $(VENV)/.profile || { echo "built with PROFILE=$$(cat $(VENV)/.profile): rm $(ENGINE), then make" >&2; exit 2; }

.PHONY: bench
bench: is-release ## cost of transactions beside PgBouncer, in interleaved rounds
	$(BIN)/python benches/poolbench.py run --out $(BENCH_OUT) $(BENCH_ARGS)

.PHONY: bench-idle
bench-idle: is-release ## memory of idle clients beside PgBouncer
	$(BIN)/python benches/poolbench.py idle --out $(BENCH_OUT) $(BENCH_ARGS)

# What tracking costs forebay, and a hand-over the server. COSTS_ROUNDS=15 for more.
COSTS_ROUNDS ?= 9
.PHONY: costs
costs: is-release ## cost of tracking, on against off, and of a hand-over at the server
	$(BIN)/python benches/poolbench.py run --poolers forebay-session,forebay-fast,forebay-safe --base forebay-session \
	    --workloads select,extended,prepared,tpcb --rounds $(COSTS_ROUNDS) --seconds 2 --out $(BENCH_OUT) $(BENCH_ARGS)
	$(BIN)/python benches/poolbench.py handover --rounds $(COSTS_ROUNDS) --out $(BENCH_OUT)

.PHONY: publish
publish: $(VENV)/.bench ## tables and plots of docs/explanation/benchmarks.md, from benches/published
	$(BIN)/python benches/publish.py

$(VENV)/.bench: pyproject.toml tools/requirements.py | $(BIN)/python
	$(BIN)/python tools/requirements.py bench | $(BIN)/pip install -r /dev/stdin
	@touch $@

# make profile BENCH_ARGS='--workload extended --poolers forebay,pgbouncer-debian'
.PHONY: profile
profile: is-release ## a flame graph of forebay's CPU under a workload, in benches/results
	$(BIN)/python benches/poolbench.py profile --poolers forebay --seconds 8 $(BENCH_ARGS)

.PHONY: instructions
instructions: | $(LIBCLANG) ## instructions of a transaction against those stored, within 3 %
	$(PYTHON) benches/instructions.py

# SHARED_ARGS='--workload prepared --rounds 100'
.PHONY: shared-lines
shared-lines: is-release ## atomic instructions of a transaction, and cache lines that it shares with another thread
	$(BIN)/python benches/shared_lines.py $(SHARED_ARGS)

.PHONY: fuzz
fuzz: | $(LIBCLANG) ## every fuzz target for FUZZ_SECONDS (20)
	tools/fuzz.sh

.PHONY: soak
soak: $(ENGINE) $(VENV)/.test ## new seeds of the simulator, and fuzz through live sockets, for SOAK_MINUTES (10)
	tools/soak.sh

# ---- packages ----

$(VENV)/.wheel: | $(VENV)/.maturin
	$(BIN)/pip install ziglang==0.17.1
	@touch $@

# zig links against the C library of manylinux_2_28, whatever this machine has. TARGET=aarch64-unknown-linux-gnu builds
# for arm64 (rustup target add it first); that wheel is built and not run here. The C library of then does not declare
# strlcpy, which libpg_query takes for declared in a file of which nothing is used.
TARGET ?= x86_64-unknown-linux-gnu
# bindgen, for a target that is named, looks for headers nowhere by itself.
HEADERS = -isystem $(shell $(CC) -print-file-name=include) -isystem /usr/include/$(shell $(CC) -dumpmachine) \
    -isystem /usr/include
.PHONY: wheel
wheel: $(VENV)/.wheel | $(LIBCLANG) ## dist/forebay-*.whl for Linux (manylinux_2_28)
	$(BIN)/python tools/notices.py python/forebay/THIRD-PARTY-NOTICES.txt
	PATH="$(CURDIR)/$(BIN):$$PATH" CFLAGS="-Wno-error=implicit-function-declaration" \
	    BINDGEN_EXTRA_CLANG_ARGS="$(HEADERS)" \
	    $(BIN)/maturin build --release --strip --zig --target $(TARGET) --compatibility manylinux_2_28 --out dist

.PHONY: wheel-test
wheel-test: wheel $(VENV)/.test ## the wheel in an empty environment, without Rust
	$(BIN)/python -m pytest -q tests/e2e/test_wheel.py --timeout 600

.PHONY: clean
clean: ## what was built; .cache (downloads) and the state of `make run` stay
	rm -rf $(VENV) target dist $(ENGINE) .pytest_cache .mypy_cache .ruff_cache
	find python tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
