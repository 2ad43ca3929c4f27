#!/bin/sh
# tidy.sh BUILD - clang-tidy over every source of that build; fails on any warning.
set -eu
cd "$(dirname -- "$0")/.."
build=$1
files=$(/usr/bin/python3 - "$build" <<'PY'
import json, os, sys
build = sys.argv[1]
with open(os.path.join(build, "compile_commands.json")) as f:
    seen = {os.path.relpath(os.path.join(c["directory"], c["file"])) for c in json.load(f)}
print("\n".join(sorted(p for p in seen if p.endswith(".c"))))
PY
)
echo "$files" | xargs -P "$(nproc)" -n 1 clang-tidy -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-optimization-argument --warnings-as-errors='*' 2>&1 |
    grep -v -E '^[0-9]+ warnings? generated\.$|^$' && status=1 || status=0
if [ "$status" != 0 ]; then
    echo "clang-tidy complains, see above" >&2
    exit 1
fi
echo "clang-tidy: $(echo "$files" | wc -l) files are well"
