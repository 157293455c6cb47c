#!/bin/sh
# For half of SOAK_MINUTES: seeds of the simulator that nobody has played. Then broken messages through live sockets, over
# both I/O drivers: FUZZ_MESSAGES, or as many as take about the other half (a million in ten minutes).
# SEED names the first seed, of both; the one taken is printed, and a seed that fails is named with what it broke.
set -eu
cd "$(dirname "$0")/.."
minutes=${SOAK_MINUTES:-10}
messages=${FUZZ_MESSAGES:-$((minutes * 100000))}
seeds_a_run=500

SEED=${SEED:-$(date +%s)}
export SEED FUZZ_MESSAGES="$messages"

cargo build -q -p forebay-sim
echo "soak: simulator, seeds from $SEED, $((minutes * 30)) s"
seed=$SEED
end=$(($(date +%s) + minutes * 30))
while [ "$(date +%s)" -lt "$end" ]; do
    cargo run -q -p forebay-sim -- --seeds "$seed..$((seed + seeds_a_run))"
    seed=$((seed + seeds_a_run))
done

echo "soak: live sockets, $messages messages, seed $SEED"
.venv/bin/python -m pytest -q tests/faults -k fuzzer --every-variant
