"""`IdTable` numbers texts by first appearance."""

import numpy as np
import polars as pl
import pytest

from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare import ids
from fedvlr_jax.prepare.cells import TimeFormat, exact_times


def numbered(texts):
    numbers = {}
    return [numbers.setdefault(text, len(numbers)) for text in texts]


def test_numbers_by_first_appearance_over_blocks():
    draw = np.random.default_rng(0)
    texts = [f"id{n}" for n in draw.integers(0, 9000, 30_000)]
    table = ids.IdTable()
    codes = [
        table.codes(pl.Series(texts[start : start + 4000])) for start in range(0, 30_000, 4000)
    ]
    assert np.concatenate(codes).tolist() == numbered(texts)
    assert table.texts.to_list() == list(dict.fromkeys(texts))


def test_texts_that_differ_little():
    texts = ["7", "07", "007", "", " 7", "7 ", "7.0", "٧"]
    assert ids.IdTable().codes(pl.Series(texts)).tolist() == list(range(8))


def test_many_in_one_slot(monkeypatch):
    hashes = lambda texts: (
        (texts.cast(pl.UInt64).to_numpy() * np.uint64(1 << 40) + np.uint64(1),) * 2
    )
    monkeypatch.setattr(ids, "_hashes", hashes)
    table = ids.IdTable()
    texts = [str(n) for n in (*range(50), *range(60), *range(10))]
    codes = [table.codes(pl.Series(part)) for part in (texts[:50], texts[50:])]
    assert np.concatenate(codes).tolist() == numbered(texts)


def test_one_equal_hash_of_two(monkeypatch):
    hashes = lambda texts: (np.ones(len(texts), np.uint64), texts.hash().to_numpy())
    monkeypatch.setattr(ids, "_hashes", hashes)
    table = ids.IdTable()
    assert table.codes(pl.Series(["a", "b", "a"])).tolist() == [0, 1, 0]
    assert table.codes(pl.Series(["c", "b"])).tolist() == [2, 1]
    monkeypatch.setattr(ids, "_hashes", lambda texts: hashes(texts)[::-1])
    with pytest.raises(InputError, match="same hash"):
        ids.IdTable().codes(pl.Series(["a", "b"]))


@pytest.mark.parametrize(
    ("text", "decimals", "expected"),
    [
        ("9007199254740993", 0, 9007199254740993),
        ("1500000000000000001.000", 0, 1500000000000000001),
        ("-5", 0, -5),
        ("+5.", 0, 5),
        ("1.500000000E9", 0, 1_500_000_000),
        ("1500000000250e-3", 2, 150_000_000_025),
        ("1.5E9", 0, None),
        ("1.5E+09", 3, None),
        ("15e8", 0, None),
        ("1.5", 0, None),
        ("1.25", 3, 1250),
        ("-0.5", 1, -5),
        ("1.2345", 3, None),
        ("x", 0, None),
        ("99999999999999999999", 0, None),
        ("inf", 0, None),
    ],
)
def test_exact_times(text, decimals, expected):
    assert exact_times(pl.Series([text]), TimeFormat(decimals=decimals)).to_list() == [expected]
