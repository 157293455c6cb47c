# One file that builds, runs and checks everything; every target installs what it needs itself.
# Needed beforehand: Python >= 3.11, Rust (rust-toolchain as in Cargo.toml), a C compiler, GNU make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE := python/forebay/_engine.abi3.so
RUST_SOURCES := $(shell find crates -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock

# Bounds of what `make test` runs of the simulator and of the fuzz targets' stable twins.
SEED ?= 1
SECONDS ?= 60

export PIP_QUIET := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := build
.PHONY: build
build: $(ENGINE) ## a release build into .venv, with the `forebay` command

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("forebay needs Python 3.11 or newer; name one with PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.maturin: | $(BIN)/python
	$(BIN)/pip install maturin==1.16.0
	@touch $@

# maturin installs what the command needs at run time and leaves what is there already.
$(ENGINE): $(RUST_SOURCES) pyproject.toml | $(VENV)/.maturin
	$(BIN)/maturin develop -q --release --extras up,auth-query
	@touch $@
