"""Which mutants there are, by hand; and the list of equivalent ones."""

import pathlib
import re

import pytest

from tests.mutations import systematic
from tests.mutations.equivalent import EQUIVALENT
from tests.mutations.operators import mutants

ROOT = pathlib.Path(__file__).parents[2]


def changed(source):
    """{new lines} of all mutants of a text."""
    return {mutant.new for mutant in mutants(source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a + b", {"x = a - b"}),
        ("x = a * b // c", {"x = a / b // c", "x = a * b * c"}),
        ("x = a < b", {"x = a <= b", "x = a > b"}),
        ("x = a == b", {"x = a != b"}),
        ("x = a and b or c", {"x = a or b or c", "x = a and b and c"}),
        ("x = -y", {"x = y"}),
        ("x = not y", {"x = y"}),
        ("x = (0, 1, 5)", {"x = (1, 1, 5)", "x = (0, 0, 5)", "x = (0, 1, 6)"}),
        (
            "x = (0.0, 1.0, 2.5)",
            {"x = (1.0, 1.0, 2.5)", "x = (0.0, 0.0, 2.5)"} | {"x = (0.0, 1.0, 5.0)"},
        ),
        ("x = 1e-30", {"x = 1.0"}),
        ("x = True", {"x = False"}),
        ("x = jnp.maximum(a, b)", {"x = jnp.minimum(a, b)"}),
        ("x = jnp.sum(a)", {"x = jnp.mean(a)"}),
        ("x = sum(a)", set()),
        ("x = jnp.sqrt(a)", {"x = (a)"}),
        ("x = jnp.where(c, a, b)", {"x = (a)", "x = jnp.where(c, b, a)"}),
        ("x = a if c else b", {"x = (a)", "x = (b)"}),
        ("x = y[:n]", {"x = y[:]"}),
        ("x = [y for y in z if f(y)]", {"x = [y for y in z if not (f(y))]"}),
        ("if f(x): y = z", {"if not (f(x)): y = z"}),
        ("x += y", {"x -= y", "pass"}),
        ("x = f(x)", {"pass"}),
        ("f(x)", {"pass"}),
    ],
)
def test_the_mutants_of_a_line(source, expected):
    assert changed(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring of 3 words."""',
        "x: tuple[int, 3] = y",
        "def f(x: Array | None = None) -> int | None: return x",
        'raise ValueError(f"{x + 1} of 3")',
        'x = "aki,akg->ig"',
        'x = f"{a + 1}"',
        "@lru_cache(maxsize=8)\ndef f(x): return x",
        "x = zip(a, b, strict=True)",
        "import jax.numpy as jnp",
        "x = a @ b",
        "x = y",
    ],
)
def test_what_has_no_mutants(source):
    assert changed(source) == set()


def test_a_mutant_knows_its_function_and_its_place_among_equal_ones():
    source = "def f(n=2):\n    x = 0\n    g = lambda y: y + x\n    x = 0\n    return g\n"
    found = mutants(source, "a.py")
    assert [(m.function, m.new, m.place) for m in found] == [
        (1, "def f(n=3):", 0),
        (1, "x = 1", 0),
        (3, "g = lambda y: y - x", 0),
        (1, "x = 1", 1),
    ]
    assert len({mutant.key for mutant in found}) == len(found)


def test_removed_statements_of_several_lines_are_shown_whole():
    (mutant,) = mutants("x = [\n  x,\n]\ny = x\n")
    assert (mutant.old, mutant.new) == ("x = [ x, ]", "pass")


@pytest.mark.parametrize("room", systematic.ROOMS)
def test_all_mutants_of_the_rooms_compile_and_no_two_are_equal(room):
    found = systematic.all_mutants([])[room]
    assert len(found) > 100
    assert len({(mutant.file, mutant.source) for mutant in found}) == len(found)
    for mutant in found:
        compile(mutant.source, mutant.file, "exec")


def test_equivalent_mutants_are_among_the_mutants_and_have_a_reason():
    keys = {mutant.key for own in systematic.all_mutants([]).values() for mutant in own}
    assert set(EQUIVALENT) <= keys
    assert all(EQUIVALENT.values())


def test_wilsons_interval_by_hand():
    """45 of 50, z = 1.96: centre (.9 + .0384) / 1.0768, half width .0861."""
    low, high = systematic.interval(45, 50)
    assert low == pytest.approx(0.7864, abs=1e-4) and high == pytest.approx(0.9565, abs=1e-4)


def test_a_room_fails_below_its_share_and_lists_the_survivors(tmp_path, capsys):
    """7 of 10 in one file and 10 of 10 in the other: 17 of 20 are 85 %. 16 are too few."""
    text = (ROOT / "fedvlr_jax/reduce/gram.py").read_text()
    own = mutants(text, "fedvlr_jax/reduce/gram.py")[:10]
    other = (ROOT / "fedvlr_jax/reduce/mean.py").read_text()
    own += mutants(other, "fedvlr_jax/reduce/mean.py")[:10]
    store = systematic.Store(tmp_path / "results.jsonl")
    for number, mutant in enumerate(own):
        store.add(mutant, number >= 3, "a test")
    assert systematic.report({"reduce": own}, store, sampled=False)
    printed = capsys.readouterr().out
    for name, share in (("gram.py", "70.0%"), ("mean.py", "100.0%"), ("reduce ", "85.0%")):
        assert re.search(rf"{name}.* {share}", printed)
    assert printed.count("\n+ ") == 3 and f"+ {own[2].new}" in printed
    store.add(own[3], False, "")
    again = systematic.Store(tmp_path / "results.jsonl")
    assert not systematic.report({"reduce": own}, again, sampled=False)
