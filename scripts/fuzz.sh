#!/bin/sh
# fuzz.sh BUILD SECONDS [NAME] - each fuzz target of tests/fuzz for so long, beginning at the corpus in tests/fuzz/corpus.
set -eu
cd "$(dirname -- "$0")/.."
build=$1 seconds=$2 only=${3:-}
ran=0
for program in "$build"/tests/fuzz/fuzz_*; do
    [ -f "$program" ] && [ -x "$program" ] || continue
    name=${program##*/fuzz_}
    [ -z "$only" ] || [ "$only" = "$name" ] || continue
    work=$build/corpus/$name
    mkdir -p "$work"
    echo "fuzzing $name for $seconds s" >&2
    seed=
    [ ! -d "tests/fuzz/corpus/$name" ] || seed=tests/fuzz/corpus/$name
    # shellcheck disable=SC2086
    "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 \
        -artifact_prefix="$build/crash-$name-" "$work" $seed
    ran=$((ran + 1))
done
[ "$ran" -gt 0 ] || { echo "no fuzz target${only:+ of the name $only} in $build/tests/fuzz" >&2; exit 1; }
echo "$ran fuzz targets found nothing"
