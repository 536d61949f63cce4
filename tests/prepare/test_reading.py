"""Equal cells give equal ids in every block, and no part of a file is lost."""

import functools
import random

import polars as pl
import pytest
import zstandard

from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare import Options, prepare, sources
from fedvlr_jax.prepare.opening import open_plain, read
from tests.prepare.forms import put

HEADER = "user_id,item_id,timestamp\n"


def users(folder, name, content):
    """The ids of the users of the prepared file."""
    raw = put(folder / name, content)
    out = folder / f"out-{len(list(folder.iterdir()))}"
    prepare(raw, out, Options(min_user_interactions=1))
    return pl.read_csv(out / "u_id_mapping.csv", infer_schema=False)["user_id"].to_list()


@pytest.mark.parametrize("blank", ["\t", "\u00a0", "\v", " "])
@pytest.mark.parametrize("size", [8, 1 << 20])
def test_blanks_around_an_id_are_removed_in_every_block(blank, size, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_BYTES", size)
    content = HEADER + f"{blank}u,i,1\nu{blank},j,2\nu,a b,3\n"
    assert users(tmp_path, "toy.csv", content) == ["u"]


@pytest.mark.parametrize("size", [8, 1 << 20])
def test_blanks_in_quotes_and_escapes_are_removed_in_every_block(size, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_BYTES", size)
    assert users(tmp_path, "toy.csv", HEADER + '"u\n",i,1\nu,j,2\nu,a b,3\n') == ["u"]
    lines = '{"user_id":"u\\n","item_id":"i","timestamp":1}\n'
    lines += '{"user_id":"u","item_id": "j","timestamp":2}\n'
    assert users(tmp_path, "toy.jsonl", lines) == ["u"]


@pytest.mark.parametrize("last_time", ["3", "3.0"])
@pytest.mark.parametrize("size", [8, 1 << 20])
def test_a_number_as_id_in_json_keeps_its_text(last_time, size, tmp_path, monkeypatch):
    """A time of 3.0 makes the reader check each cell of its block as a text."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", size)
    written = ["1.0", "2.50", "1e3", "-0", "12345678901234567890", "true", '"1"']
    lines = [f'{{"user_id":{user},"item_id":7,"timestamp":1}}\n' for user in written]
    lines += [f'{{"user_id":{user},"item_id":8,"timestamp":{last_time}}}\n' for user in written]
    expected = ["1.0", "2.50", "1e3", "-0", "12345678901234567890", "True", "1"]
    assert users(tmp_path, "toy.jsonl", "".join(lines)) == expected


@pytest.mark.parametrize("time", ["1", "1.0"])
def test_half_a_character_is_no_id(time, tmp_path):
    line = f'{{"user_id":"u\\ud83d","item_id":"i","timestamp":{time}}}\n'
    with pytest.raises(InputError, match=r"row 1, column user_id: found 'u\\ud83d', expected a"):
        users(tmp_path, "toy.jsonl", line)


def test_the_first_line_of_json_may_leave_fields_out(tmp_path):
    lines = '{"user_id":"u","item_id":"i","timestamp":1}\n'
    lines += '{"user_id":"u","item_id":"j","timestamp":2,"rating":5}'
    raw = put(tmp_path / "toy.jsonl", lines)
    with pytest.raises(InputError, match=r"row 1, column rating: found an empty .* rating=none"):
        prepare(raw, tmp_path / "out")


@pytest.mark.parametrize("few", [1, 1000])
def test_a_quote_inside_a_field_does_not_join_the_blocks(few, tmp_path, monkeypatch):
    """The quote of 12" mix is no mark. A field of the last lines has a line break."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 64)
    monkeypatch.setattr(sources, "_FEW_LINES", few)
    lines = ['u,i,1,12" mix\n', *(f"u{place},i,2,x\n" for place in range(2000))]
    lines += [f'"v\n{place}",i,2,"a,\n"""\n' for place in range(50)]
    raw = put(tmp_path / "toy.csv", "".join(lines))
    found = list(sources.blocks(raw, quoted=","))
    assert b"".join(block.text for block in found) == raw.read_bytes()
    longest = max(len(block.text) for block in found)
    assert longest < (300 if few == 1 else 20_000)
    expected = ["u", *(f"u{place}" for place in range(2000)), *(f"v\n{n}" for n in range(50))]
    assert users(tmp_path, "more.csv", HEADER[:-1] + ",note\n" + "".join(lines)) == expected


def test_the_frames_of_zstandard_are_read_whole(tmp_path):
    draw = random.Random(0)
    text = HEADER + "".join(f"u{draw.random()},i,{place}\n" for place in range(20_000))
    frames = [zstandard.compress(half.encode()) for half in (text[:300_000], text[300_000:])]
    path = tmp_path / "toy.csv.zst"
    path.write_bytes(b"".join(frames))
    for size in (1000, 1 << 20, -1):
        with open_plain(path) as file:
            pieces = list(iter(functools.partial(read, path, file, size), b""))
        assert b"".join(pieces).decode() == text
        assert size < 0 or max(map(len, pieces)) <= size


@pytest.mark.parametrize("lost", [1, 2, 10_000, 100_000])
def test_a_truncated_file_of_zstandard_is_refused(lost, tmp_path):
    draw = random.Random(0)
    text = HEADER + "".join(f"u{draw.random()},i,{place}\n" for place in range(20_000))
    path = tmp_path / "toy.csv.zst"
    path.write_bytes(zstandard.compress(text.encode())[:-lost])
    with pytest.raises(InputError, match=r"damaged or truncated \(the file ends inside a frame\)"):
        prepare(path, tmp_path / "out", Options(min_user_interactions=1))
    assert not (tmp_path / "out").exists()
