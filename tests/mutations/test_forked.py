"""Changed code in the place of a module's own, and marks that say which functions are called."""

import builtins
import sys
import types

import pytest

from tests.mutations import forked

TOY = """
import functools
SIZE = (1, 2)
TABLE = {"a": lambda: SIZE}

def plain(x, by=1):
    inner = lambda y: y + by
    return inner(x)

@functools.lru_cache
def kept():
    return SIZE

class Shape:
    side: int = 3

    def area(self):
        return 9

    @property
    def name(self):
        return "square"

    @classmethod
    def made(cls):
        return 1
"""
FILE = "fedvlr_jax/toy.py"


@pytest.fixture
def toy(monkeypatch):
    module = types.ModuleType("fedvlr_jax.toy")
    module.__file__ = "toy.py"
    exec(TOY, module.__dict__)
    monkeypatch.setitem(sys.modules, "fedvlr_jax.toy", module)
    return module


@pytest.mark.parametrize(
    ("old", "new", "call"),
    [
        ("y + by", "y - by", lambda m: m.plain(5) == 4),
        ("by=1", "by=2", lambda m: m.plain(5) == 7),
        ("SIZE = (1, 2)", "SIZE = (1, 3)", lambda m: m.kept() == (1, 3) == m.TABLE["a"]()),
        ("return SIZE", "return 7", lambda m: m.kept() == 7),
        ("return 9", "return 8", lambda m: m.Shape().area() == 8),
        ('"square"', '"round"', lambda m: m.Shape().name == "round"),
        ("return 1", "return 2", lambda m: m.Shape.made() == 2),
    ],
)
def test_changed_code_takes_the_place_of_what_other_modules_hold(toy, old, new, call):
    text = TOY.replace(old, new, 1)
    (line,) = [n for n, x in enumerate(text.splitlines(), 1) if x not in TOY.splitlines()]
    assert forked.can_graft(TOY, line)
    assert not call(toy)
    forked._graft(FILE, text)
    toy.kept.cache_clear()
    assert call(toy)


def test_lines_that_need_a_new_import():
    lines = TOY.splitlines()
    for piece in ("TABLE", "side: int"):
        (line,) = [n for n, x in enumerate(lines, 1) if piece in x]
        assert not forked.can_graft(TOY, line)


def test_marks_name_the_functions_that_are_called(toy, monkeypatch):
    called = []
    mark = lambda file, line: called.append((file, lines[line - 1].split("(")[0].strip()))
    monkeypatch.setattr(builtins, forked.MARK, mark, raising=False)
    lines = TOY.splitlines()
    forked._graft(FILE, forked._marked(TOY, FILE))
    assert toy.plain(5) == 6 and toy.Shape().name == "square"
    assert called == [
        (FILE, "def plain"),
        (FILE, "inner = lambda y: y + by"),
        (FILE, "def name"),
    ]
