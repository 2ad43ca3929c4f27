#!/bin/sh
# demo.sh BUILD - what `make demo` shows; the Makefile has installed the packages that it needs.
exec /usr/bin/python3 "$(dirname "$0")/../bench/demo.py" --build "${1:-build}"
