#!/bin/sh
# For half of SOAK_MINUTES: seeds of the simulator that nobody has played; then FUZZ_MESSAGES (a million) broken messages
# through live sockets, over both I/O drivers.
# SEED names the first seed; the one taken is printed, and a seed that fails is named with what it broke.
set -eu
cd "$(dirname "$0")/.."
minutes=${SOAK_MINUTES:-10}
python=${PYTHON:-.venv/bin/python}
seeds_a_run=500

seed=${SEED:-$(date +%s)}
end=$(($(date +%s) + minutes * 30))
cargo build -q -p forebay-sim
echo "soak: simulator, seeds from $seed, $((minutes * 30)) s"
while [ "$(date +%s)" -lt "$end" ]; do
    cargo run -q -p forebay-sim -- --seeds "$seed..$((seed + seeds_a_run))"
    seed=$((seed + seeds_a_run))
done

if [ -d tests/faults ]; then
    messages=${FUZZ_MESSAGES:-1000000}
    echo "soak: live sockets, $messages messages"
    FUZZ_MESSAGES=$messages "$python" -m pytest -q tests/faults -k fuzzer --timeout 0
fi
