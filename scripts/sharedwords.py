#!/usr/bin/python3
"""Fails where an order of memory is chosen at the place of use, for a word that another process writes.

Such a word has named functions beside the struct that it lies in, and they say the order and whom it pairs with. So an
atomic of base/atomic.h is applied to a field of a shared struct in the header that defines the struct, or in src/shm and
src/session, and nowhere else. Shared are the structs of shm/abi.h, and whatever lies in struct family.

The program text itself is read (it is plain C in one form, see format.sh): what an operand is follows from the
declarations in the function, from the fields of the structs and from what functions return. What does not follow is an
error too, and so is a number behind a bare pointer, unless a variable of the process points to it.
"""
import pathlib
import re
import sys

from callgraph import ROOT, plain

ATOMIC = re.compile(r"\b(?:(?:load|store)_(?:relaxed|acquire|release|sc)|"
                    r"(?:fetch_(?:add|or|and)|exchange|compare_exchange)_sc)\(")
BARE = re.compile(r"\b(?:__atomic_|__sync_|atomic_|_Atomic\b)\w*")
FREE = ("src/base/", "src/shm/", "src/session/")
TYPE = r"(?:struct \w+|enum \w+|u?int(?:\d+|ptr)_t|s?size_t|\w+_handle|endpoint|bool|char|int|long|unsigned|void)"
DECLARED = re.compile(rf"(?<!\w)({TYPE})(?: const)?\s+(\**)(\w+)\b(?!\()")
RETURNS = re.compile(rf"^(?:[\w ]*?\b)?({TYPE}) (\**)(\w+)\(", re.M)
# Bare pointers to what is the process's own, each with what it points to.
ALLOWED = {
    ("spin.c", "vain"): "vain_read or vain_write of a session's cache",
}

STRUCT = re.compile(r"\bstruct (\w+) \{")


def closing(text, at):
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    return len(text)


def declarations(text):
    """name -> (type, stars, is it an array) of what is declared in a piece of text."""
    found = {}
    for m in DECLARED.finditer(text):
        kind, stars, name, at = m[1], m[2], m[3], m.end()
        while True:
            array = text[at:at + 1] == "["
            found[name] = (kind, len(stars), array)
            while at < len(text) and text[at] not in ",;)}":
                at = closing(text, at) + 1 if text[at] in "([{" else at + 1
            more = re.match(r",\s*(\**)(\w+)\b(?=\s*[,;=\[)])", text[at:])
            if not more or re.match(rf",\s*{TYPE}\b", text[at:]):
                break
            stars, name, at = more[1], more[2], at + more.end()
    found.update({m[1]: ("void", 1, False) for m in re.finditer(r"\(\*(\w+)\)\(", text)})
    return found


class Program:
    def __init__(self, paths):
        self.text = {p: plain(p.read_text()) for p in paths}
        self.fields, self.home, self.results, self.globals = {}, {}, {}, {"C": ("struct client", 1, False)}
        self.own, self.path = {}, None  # what each file declares, and the one that is read now
        for path, text in self.text.items():
            for m in STRUCT.finditer(text):
                body = text[m.end():closing(text, m.end() - 1)]
                self.fields.setdefault(m[1], {}).update(declarations(body))
                self.home.setdefault(m[1], path)
            self.results.update({m[3]: (m[1], len(m[2]), False) for m in RETURNS.finditer(text)})
            outside = re.sub(r"(?ms)^\S[^\n;]*\n?\{\n.*?^\}", "", text)
            self.own[path] = declarations(re.sub(r"(?m)^[\w *]+\((?!\*)[^;]*\)[^;{]*;", "", outside))
            self.own[path].update({m[1]: ("struct", 0, True) for m in re.finditer(r"(?m)^\} (\w+)", text)})
            self.globals.update(self.own[path])

    def shared(self):
        seen, todo = set(), ["family"] + [s for s, p in self.home.items() if p.name == "abi.h"]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += [k[7:] for k, _, _ in self.fields.get(name, {}).values() if k.startswith("struct ")]
        return seen

    def kind(self, text, local):
        """(type, the struct it is a field of or "*" where it is reached by a pointer, is it a variable of the process)."""
        text = text.strip()
        if text.startswith("&"):
            found = self.kind(text[1:], local)
            return found and ((found[0][0], found[0][1] + 1, False), *found[1:])
        if text.startswith("("):
            end = closing(text, 0)
            if re.fullmatch(rf"(?:const )?{TYPE}(?: const)? ?\**", text[1:end]):
                return self.kind(text[end + 1:], local)
            found, at = self.kind(text[1:end], local), end + 1
        else:
            m = re.match(r"\w+", text)
            if not m:
                return None
            at = m.end()
            if text[at:at + 1] == "(":
                at = closing(text, at) + 1
                found = m[0] in self.results and (self.results[m[0]], None, False)
            else:
                found = (m[0] in local and (local[m[0]], None, False)) or \
                        (m[0] in self.own[self.path] and (self.own[self.path][m[0]], None, True)) or \
                        (m[0] in self.globals and (self.globals[m[0]], None, True))
        while found and at < len(text):
            m = re.match(r"(?:->|\.)(\w+)", text[at:])
            if m:
                owner = found[0][0].removeprefix("struct ")
                if found[2] and not found[0][1] and text[at] == ".":  # part of a variable of the process
                    return found
                if m[1] not in self.fields.get(owner, {}):
                    return None
                found, at = (self.fields[owner][m[1]], owner, False), at + m.end()
            elif text[at] == "[":
                kind, stars, array = found[0]
                owner = found[1] or (None if array or found[2] else "*")
                found, at = ((kind, stars - (not array), False), owner, found[2]), closing(text, at) + 1
            else:
                break  # arithmetic
        return found or None


def operands(text):
    """The alternatives of an atomic's first operand, which begins `text`."""
    at = 0
    while text[at] not in ",)":
        at = closing(text, at) + 1 if text[at] in "([{" else at + 1
    m = re.match(r"[^?]*\?(.*):(.*)", text[:at], re.S)
    return m.groups() if m else (text[:at],)


def main():
    paths = [pathlib.Path(a) for a in sys.argv[1:]] or sorted((ROOT / "src").rglob("*.[ch]"))
    program, bad = Program(paths), 0
    shared, unused = program.shared(), set(ALLOWED)
    homes = {program.home[s] for s in shared}
    for path, text in program.text.items():
        if any(d in path.as_posix() for d in FREE) or path in homes:
            continue
        program.path = path
        heads = [m.start() for m in re.finditer(r"(?m)^(?=\S.*(?:\n.*)?(?:\n.*)?\n\{$)", text)] + [len(text)]
        for m in BARE.finditer(text):
            bad += 1
            print(f"{path}:{text.count(chr(10), 0, m.start()) + 1}: {m[0]}: base/atomic.h has names for it", file=sys.stderr)
        for m in ATOMIC.finditer(text):
            begin = max((h for h in heads if h <= m.start()), default=0)
            local = declarations(text[begin:m.start()])
            for operand in operands(text[m.end():]):
                found = program.kind(operand, local)
                owner = found and found[1]
                if not found:
                    why = "what this is does not follow from the declarations"
                elif owner in shared:
                    why = f"struct {owner} is shared, its words have functions beside it"
                elif not found[2] and found[0][1] == 1 and \
                        (owner == "*" or (not owner and not operand.strip().startswith("&"))):
                    why = "a number behind a bare pointer"
                    name = re.search(r"\w+", operand)[0]
                    if (path.name, name) in ALLOWED:
                        unused.discard((path.name, name))
                        continue
                else:
                    continue
                bad += 1
                print(f"{path}:{text.count(chr(10), 0, m.start()) + 1}: {m[0]}{operand.strip()}): {why}", file=sys.stderr)
    for file, name in sorted(unused):
        print(f"{name} in {file} is allowed, and nothing needs it", file=sys.stderr)
    return 1 if bad or unused else 0


if __name__ == "__main__":
    sys.exit(main())
