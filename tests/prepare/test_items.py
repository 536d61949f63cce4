"""The file of items: its ids are those of the interactions, and no title is lost."""

import polars as pl
import pytest

from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.items import read_items
from tests.prepare.forms import put


def titles(path):
    return {key: item.title for key, item in read_items(path, notes=[]).items()}


def test_the_ids_are_read_as_those_of_interactions(tmp_path):
    raw = put(tmp_path / "items.csv", "item_id,title\n a  b ,A\n007,B\n")
    assert titles(raw) == {"a  b": "A", "007": "B"}
    for ids in ([1.0, 2.0], [1, 2], [b"1", b"2"], ["1", "2"]):
        pl.DataFrame({"item_id": ids, "title": ["A", "B"]}).write_parquet(tmp_path / "i.parquet")
        assert titles(tmp_path / "i.parquet") == {"1": "A", "2": "B"}


def test_the_first_line_of_json_may_leave_the_title_out(tmp_path):
    raw = put(tmp_path / "items.jsonl", '{"item_id":"1"}\n{"item_id":"2","title":"B"}\n')
    assert titles(raw) == {"1": "", "2": "B"}


def test_half_a_character_in_a_title_can_be_written(tmp_path):
    raw = put(tmp_path / "items.jsonl", '{"item_id":"1","title":"cut \\ud83d"}\n')
    assert titles(raw) == {"1": "cut ?"}


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    raw = tmp_path / "items.csv"
    notes = []
    raw.write_bytes("item_id,title\n1,Café\n".encode())
    read_items(raw, notes=notes)
    assert not any("UTF-8" in note for note in notes)
    raw.write_bytes("item_id,title\n1,Café\n".encode() + b"2,\xe9\n")
    assert titles(raw) == {"1": "CafÃ©", "2": "é"}
    read_items(raw, notes=notes)
    assert "items.csv: read as latin-1, because row 3 is not UTF-8; if letters are wrong" in str(
        notes
    )


def test_a_damaged_parquet_file_of_items_is_named_in_one_line(tmp_path):
    raw = tmp_path / "items.parquet"
    ids = [str(place) for place in range(1000)]
    pl.DataFrame({"item_id": ids, "title": ids}).write_parquet(raw)
    content = bytearray(raw.read_bytes())
    content[40:700] = b"\xff" * 660
    raw.write_bytes(content)
    with pytest.raises(InputError, match=r"items\.parquet: cannot be read as parquet"):
        titles(raw)
