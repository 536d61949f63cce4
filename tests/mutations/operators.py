"""Mutants of a module: its text with one small change each.

Operators, chosen for numeric code:

- arithmetic, bit, comparison and Boolean operators, signs, `+=` and its kind;
- numbers (one more, 0 for 1, twice a float, 1.0 for a float near 0) and truth values;
- calls: `min` for `max` and the like (SWAPS), f(x) by x (UNWRAPPED), `where` without its condition
  or with its branches exchanged;
- conditions negated, one branch of `a if c else b`, a bound of a slice dropped;
- a statement that updates a name, or that is a call, removed.

Never changed: strings (messages, names, docstrings, einsum subscripts), annotations, imports,
decorators, `raise` statements, and the keywords of UNCHANGED. `@` stays too: `*` fails on shapes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

BINARY = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
}
COMPARISONS = {
    ast.Lt: ("<", ("<=", ">")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
SWAPS = {
    "maximum": "minimum",
    "minimum": "maximum",
    "max": "min",
    "min": "max",
    "any": "all",
    "all": "any",
    "zeros": "ones",
    "ones": "zeros",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
    "floor": "ceil",
    "ceil": "floor",
    "trunc": "round",
    "log2": "log",
    "normal": "uniform",
    "mean": "sum",
}
# Of a module only: the built-in `sum` takes an iterable.
MODULE_SWAPS = {"sum": "mean"}
UNWRAPPED = {"abs", "clip", "cumsum", "exp", "fold_in", "sign", "sort", "sqrt", "square"}
# `strict` of zip reports an error of the caller; the others are no numbers of the method.
UNCHANGED = {"strict", "maxsize", "dtype", "name"}


class Mutant(NamedTuple):
    """One change of one file.

    Attributes:
      file: relative to the root. line: of the changed text, from 1.
      function: first line of the innermost function or lambda around it; 0 for the module.
      source: text of the whole changed module.
      old, new: the changed lines before and after, without indentation.
      place: which one of the mutants of the file with this `old` and `new`, from 0.
    """

    file: str
    line: int
    function: int
    source: str
    old: str
    new: str
    place: int = 0

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.file, self.old, self.new, self.place


class Edit(NamedTuple):
    """`text` replaces the bytes from `start` to `end`, at `node`."""

    start: int
    end: int
    text: str
    line: int
    function: int


def mutants(source: str, file: str = "") -> list[Mutant]:
    """All mutants of a module's text, in the order of the text; no two are equal."""
    data = source.encode()
    found, seen, places = [], set(), {}
    for edit in sorted(set(_Edits(data).all())):
        text = (data[: edit.start] + edit.text.encode() + data[edit.end :]).decode()
        if text in seen:
            continue
        seen.add(text)
        mutant = _described(source, text, edit, file)
        place = places.setdefault(mutant.key, 0)
        places[mutant.key] += 1
        found.append(mutant._replace(place=place))
    return found


def _described(source: str, text: str, edit: Edit, file: str) -> Mutant:
    before, after = source.splitlines(), text.splitlines()
    first = next(i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1])
    shared = min(len(before), len(after)) - first
    pairs = zip(reversed(before), reversed(after), strict=False)
    same = 0
    for one, other in pairs:
        if one != other or same == shared - 1:
            break
        same += 1
    cut = lambda lines: " ".join(x.strip() for x in lines[first : len(lines) - same])
    return Mutant(file, edit.line, edit.function, text, cut(before), cut(after))


class _Edits:
    """Collects the edits of a module."""

    def __init__(self, data: bytes):
        self._data = data
        self._starts = [0]
        for line in data.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def all(self) -> Iterator[Edit]:
        yield from self._inside(ast.parse(self._data), 0)

    def _inside(self, node: ast.AST, function: int) -> Iterator[Edit]:
        """Edits of `node` and what is in it; `function` is the first line of the one around it."""
        for start, end, text in self._of(node):
            line = self._data[:start].count(b"\n") + 1
            yield Edit(start, end, text, line, function)
        inner = first_line(node) or function
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _left_alone(node, name, child):
                    yield from self._inside(child, inner)

    def _of(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        rule = getattr(self, f"_{type(node).__name__}", None)
        return rule(node) if rule else iter(())

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self._at(node.lineno, node.col_offset),
            self._at(node.end_lineno, node.end_col_offset),
        )

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._data[start:end].decode()

    def _whole(self, node: ast.AST, text: str) -> Iterator[tuple[int, int, str]]:
        yield (*self._span(node), text)

    def _between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> Iterator[tuple]:
        """`new` for the operator `old` in the text between two operands."""
        begin, end = self._span(left)[1], self._span(right)[0]
        gap = self._data[begin:end].decode()
        assert gap.count(old) == 1, gap
        at = begin + len(gap[: gap.index(old)].encode())
        yield at, at + len(old), new

    def _BinOp(self, node):
        if type(node.op) in BINARY:
            yield from self._between(node.left, node.right, *BINARY[type(node.op)])

    def _Compare(self, node):
        operands = [node.left, *node.comparators]
        for place, op in enumerate(node.ops):
            old, replacements = COMPARISONS[type(op)]
            for new in replacements:
                yield from self._between(operands[place], operands[place + 1], old, new)

    def _BoolOp(self, node):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from self._between(left, right, old, new)

    def _UnaryOp(self, node):
        yield from self._whole(node, self._text(node.operand))

    def _Constant(self, node):
        value = node.value
        if isinstance(value, bool):
            yield from self._whole(node, str(not value))
        elif isinstance(value, int):
            yield from self._whole(node, "0" if value == 1 else str(value + 1))
        elif isinstance(value, float):
            near_zero = abs(value) < 1e-3
            other = 0.0 if value == 1 else 1.0 if near_zero else 2 * value
            yield from self._whole(node, repr(other))

    def _Call(self, node):
        function = node.func
        name = getattr(function, "attr", getattr(function, "id", None))
        other = SWAPS.get(name)
        if isinstance(function, ast.Attribute):
            other = other or MODULE_SWAPS.get(name)
        if other:
            end = self._span(function)[1]
            yield end - len(name.encode()), end, other
        if name in UNWRAPPED and node.args:
            yield from self._whole(node, f"({self._text(node.args[0])})")
        if name == "where" and len(node.args) == 3:
            condition, one, two = (self._text(argument) for argument in node.args)
            call = self._text(function)
            yield from self._whole(node, f"({one})")
            yield from self._whole(node, f"{call}({condition}, {two}, {one})")

    def _IfExp(self, node):
        yield from self._whole(node, f"({self._text(node.body)})")
        yield from self._whole(node, f"({self._text(node.orelse)})")

    def _If(self, node):
        # Of one comparison, `_Compare` has the opposite.
        if not isinstance(node.test, ast.Compare | ast.UnaryOp):
            yield from self._whole(node.test, f"not ({self._text(node.test)})")

    _While = _If

    def _comprehension(self, node):
        for test in node.ifs:
            yield from self._whole(test, f"not ({self._text(test)})")

    def _Slice(self, node):
        for bound in (node.lower, node.upper):
            if bound is not None:
                yield from self._whole(bound, "")

    def _AugAssign(self, node):
        if type(node.op) in BINARY:
            old, new = BINARY[type(node.op)]
            yield from self._between(node.target, node.value, f"{old}=", f"{new}=")
        yield from self._whole(node, "pass")

    def _Assign(self, node):
        # Of several names at once, all must be there before.
        stored = {n.id for target in node.targets for n in ast.walk(target) if _is_name(n)}
        read = {n.id for n in ast.walk(node.value) if _is_name(n)}
        if stored and stored <= read:
            yield from self._whole(node, "pass")

    def _Expr(self, node):
        if isinstance(node.value, ast.Call):
            yield from self._whole(node, "pass")


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def first_line(node: ast.AST) -> int:
    """The first line of a function or lambda; 0 of anything else."""
    return node.lineno if isinstance(node, ast.FunctionDef | ast.Lambda) else 0


def _left_alone(parent: ast.AST, field: str, child: ast.AST) -> bool:
    if field in ("annotation", "returns", "decorator_list", "bases"):
        return True
    if isinstance(child, ast.keyword):
        return child.arg in UNCHANGED
    return isinstance(child, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr)
