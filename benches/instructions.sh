#!/bin/sh
# Where the instructions of a transaction in forebay-core go, by function: instructions.sh [HOW MANY FUNCTIONS].
# Optional: needs valgrind.
set -eu
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "instructions.sh: valgrind is not installed (apt-get install valgrind)" >&2; exit 2; }

program=$(cargo bench -q -p forebay-core --features fuzzing --bench instructions --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*instructions[^"]*\)".*/\1/p' | tail -n 1)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

for kind in simple prepared extended queued; do
    printf '\n%s: instructions a transaction, by function, without what it calls\n' "$kind"
    valgrind --tool=callgrind --callgrind-out-file="$out/$kind" --toggle-collect='*Scene*transaction*' \
        "$program" "$kind" 1000 >/dev/null 2>&1
    # A function stands once for each file that was inlined into it.
    callgrind_annotate --auto=no --threshold=99.9 "$out/$kind" | grep -E '^ *[0-9,]+ \(' |
        sed -E 's/^ *([0-9,]+) \([^)]*\) *[^ ]*\.[a-zA-Z]+:/\1 /; s/ \[[^]]*\]$//' |
        awk '{ n = $1; gsub(",", "", n); $1 = ""; if (!/PROGRAM TOTALS/) sum[$0] += n }
            END { for (name in sum) printf "%8.0f %s\n", sum[name] / 1000, name }' |
        sort -rn | head -n "${1:-20}"
done
