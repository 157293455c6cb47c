#!/bin/sh
# Runs every fuzz target for FUZZ_SECONDS, or those that FUZZ_TARGETS names. Ends at the first crash, with the bytes that
# cause it in fuzz/artifacts.
set -eu
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-20}

command -v rustup >/dev/null || {
    echo "fuzz: a nightly toolchain is needed, and there is no rustup to install it with (https://rustup.rs)" >&2
    exit 2
}
case $(rustup toolchain list) in
*nightly*) ;;
*) rustup toolchain install nightly --profile minimal ;;
esac
. tools/cargo_tool.sh
cargo_tool cargo-fuzz 0.13.2

# RUSTUP_TOOLCHAIN, for `cargo +nightly` reaches only cargos that rustup put there.
export RUSTUP_TOOLCHAIN=nightly
"$TOOL" build
for target in ${FUZZ_TARGETS:-$("$TOOL" list)}; do
    echo "fuzz: $target, $seconds s"
    "$TOOL" run "$target" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        2>"fuzz/$target.log" || {
        cat "fuzz/$target.log" >&2
        exit 1
    }
    sed -n 's/^stat::number_of_executed_units: */  runs: /p' "fuzz/$target.log"
    rm -f "fuzz/$target.log"
done
