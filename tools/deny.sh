#!/bin/sh
# Checks licences, bans and sources of all crates (deny.toml); known flaws, too, where their database can be reached.
set -eu
cd "$(dirname "$0")/.."
. tools/cargo_tool.sh
cargo_tool cargo-deny 0.20.2

"$TOOL" --log-level error check licenses bans sources
if "$TOOL" --log-level off fetch db >/dev/null 2>&1; then
    "$TOOL" --log-level error check advisories
else
    echo "advisories: not checked, their database can't be reached from here"
fi
