#!/bin/sh
# mutation.sh BUILD SECONDS [SEED] - runs tests/stress/mutate of a sanitizer build beside a daemon of its own.
set -eu
build=$1 seconds=$2 seed=${3:-$(date +%s)}
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:handle_abort=1:detect_leaks=0:detect_stack_use_after_return=1"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-}:print_stacktrace=1:halt_on_error=1"
dir=$(mktemp -d)
export BERTH_RUNTIME_DIR="$dir"
daemon=
trap 'exit 1' HUP INT TERM
trap 'if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null; wait "$daemon" || true; fi; rm -rf "$dir"' EXIT
"$build/berth" daemon --runtime-dir "$dir" 2>"$dir/log" &
daemon=$!
n=0
while ! [ -S "$dir/control.sock" ]; do
    n=$((n + 1))
    [ $n -lt 100 ] || { cat "$dir/log" >&2; exit 1; }
    sleep 0.1
done
# what the library says of a peer that breaks the rules is much: the end of it is enough
status=0
timeout -k 10 $((seconds + 120)) "$build/tests/stress/mutate" "$seed" "$seconds" 2>"$dir/err" || status=$?
if [ $status != 0 ]; then
    grep -v "is reset" "$dir/err" | tail -n 100 >&2
    echo "mutation found a fault: status $status; again with MUTATION_SEED=$seed" >&2
fi
kill -0 "$daemon" || { cat "$dir/log" >&2; echo "the daemon is gone" >&2; status=1; }
exit $status
