#!/bin/sh
# fuzz.sh BUILD SECONDS [NAME] - builds each libFuzzer target of tests/fuzz and runs it for so long, beginning at what
# earlier runs found, in BUILD/corpus/NAME.
set -eu
cd "$(dirname -- "$0")/.."
build=$1 seconds=$2 only=${3:-}
ran=0
ninja -C "$build" build.ninja >/dev/null
targets=$(ninja -C "$build" -t targets all | sed -n 's,^\(tests/fuzz/[a-z0-9_-]*_libfuzzer\): .*,\1,p' | sort -u)
for target in $targets; do
    name=${target##*/}
    name=${name%_libfuzzer}
    [ -z "$only" ] || [ "$only" = "$name" ] || continue
    ninja -C "$build" "$target"
    work=$build/corpus/$name
    mkdir -p "$work"
    echo "fuzzing $name for $seconds s" >&2
    "$build/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 \
        -artifact_prefix="$build/crash-$name-" "$work"
    ran=$((ran + 1))
done
[ "$ran" -gt 0 ] || { echo "no fuzz target${only:+ of the name $only} in $build" >&2; exit 1; }
echo "$ran fuzz targets found nothing"
