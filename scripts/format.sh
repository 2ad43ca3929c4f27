#!/bin/sh
# format.sh [--check] - the sources by .clang-format. --check changes nothing, shows what differs and fails if any does.
set -eu
cd "$(dirname -- "$0")/.."
files=$(find src include bench examples tests -name '*.[ch]' 2>/dev/null | sort)
if [ "${1:-}" != --check ]; then
    # shellcheck disable=SC2086
    exec clang-format -i $files
fi
bad=0
for f in $files; do
    if ! clang-format "$f" | diff -u --label "$f" --label "$f, formatted" "$f" - ; then
        bad=$((bad + 1))
    fi
done
if [ "$bad" != 0 ]; then
    echo "$bad files are not in the form of .clang-format; 'make format' puts them into it" >&2
    exit 1
fi
echo "format: $(echo "$files" | wc -l) files are well"
