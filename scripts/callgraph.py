#!/usr/bin/python3
"""Draws which file of src/client calls which, and fails where the calls run in a circle.

The files are floors of a house: a call goes down or stays. What must go up is a value that the caller acts on, or a
callback that the upper floor hands down. So the program text itself is read (it is plain C in one form, see format.sh):
a function is what opens a brace in column 0; a call is its name and a bracket in another's body. What is handed down as
a callback is no call.
"""
import argparse
import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Calls upward that are left, each with its reason.
ALLOWED = {}

BLANK = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
CALL = re.compile(r'(?<![\w.>])([A-Za-z_]\w*)\s*\(')


def plain(text):
    """The text without comments and strings, line for line."""
    return BLANK.sub(lambda m: "\n" * m.group().count("\n") or " ", text)


def functions(text):
    """(name, is it static, body) of every function."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line != "{":
            continue
        head = i
        while head and lines[head - 1] and lines[head - 1][0] not in "#}{/" and not lines[head - 1].endswith(";"):
            head -= 1
        declared = re.sub(r"__attribute__\(\(.*?\)\)", "", " ".join(lines[head:i])).strip()
        m = re.search(r"(\w+)\s*\(", declared)
        if not m:
            continue
        end = lines.index("}", i)
        yield m.group(1), declared.startswith("static"), "\n".join(lines[i:end])


def calls(directory):
    """file -> file -> the calls, as "caller -> callee"."""
    bodies, home, own = [], {}, collections.defaultdict(set)
    for path in sorted(directory.glob("*.[ch]")):
        if not path.with_suffix(".c").exists():
            continue
        for name, static, body in functions(plain(path.read_text())):
            bodies.append((path.stem, name, body))
            own[path.stem].add(name)
            if not static or path.suffix == ".h":
                home[name] = path.stem
    graph = {stem: collections.defaultdict(set) for stem in own}
    for stem, caller, body in bodies:
        for name in set(CALL.findall(body)):
            if name in home and home[name] != stem and name not in own[stem]:
                graph[stem][home[name]].add(f"{caller} -> {name}")
    return graph


def circles(graph):
    """The groups of files that reach each other."""
    def reach(start):
        seen, todo = set(), [start]
        while todo:
            for to in graph.get(todo.pop(), ()):
                if to not in seen:
                    seen.add(to)
                    todo.append(to)
        return seen
    reached = {stem: reach(stem) for stem in graph}
    groups = {frozenset(b for b in reached[a] if a in reached.get(b, ())) for a in graph}
    return sorted((sorted(g) for g in groups if g), key=len)


def floors(graph):
    """file -> floor, 0 the lowest; a circle counts as one."""
    group = {stem: (stem,) for stem in graph}
    for circle in circles(graph):
        group.update(dict.fromkeys(circle, tuple(circle)))
    known = {}

    def floor(g):
        if g not in known:
            below = {group[to] for stem in g for to in graph[stem]} - {g}
            known[g] = 1 + max(map(floor, below), default=-1)
        return known[g]
    return {stem: floor(group[stem]) for stem in graph}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("directory", nargs="?", type=pathlib.Path, default=ROOT / "src/client")
    parser.add_argument("--calls", action="store_true", help="name the calls too")
    parser.add_argument("--between", nargs=2, metavar="FILE", help="only the calls of one file to another")
    args = parser.parse_args()
    graph = calls(args.directory)
    if args.between:
        for call in sorted(graph[args.between[0]][args.between[1]]):
            print(call)
        return 0
    unused = set(ALLOWED)
    for (caller, callee) in ALLOWED:
        if graph.get(caller, {}).pop(callee, None):
            unused.discard((caller, callee))
    by_floor = floors(graph)
    for stem in sorted(graph, key=lambda s: (-by_floor[s], s)):
        print(f"{by_floor[stem]:3}  {stem:12} -> {' '.join(sorted(graph[stem]))}")
        if args.calls:
            for to in sorted(graph[stem]):
                print(f"         {to}: {', '.join(sorted(graph[stem][to]))}")
    bad = circles(graph)
    for circle in bad:
        print(f"calls run in a circle: {', '.join(circle)}", file=sys.stderr)
    for caller, callee in sorted(unused):
        print(f"{caller} -> {callee} is allowed, and nothing calls so", file=sys.stderr)
    return 1 if bad or unused else 0


if __name__ == "__main__":
    sys.exit(main())
