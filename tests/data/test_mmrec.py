"""The loader on small hand-made folders: the data it reads, and its message for every bad input."""

import bz2
import gzip
import io
import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from fedvlr_jax.data import load_dataset, mmrec
from fedvlr_jax.errors import InputError

SPLIT_ROWS = [
    "0,0,0,1",
    "0,1,0,2",
    "0,2,1,3",
    "0,3,2,4",
    "1,1,0,1",
    "1,3,0,2",
    "1,0,1,3",
    "1,2,2,4",
]
HEADER = "userID,itemID,split_label,timestamp"


def table(rows=SPLIT_ROWS, header=HEADER):
    return "\n".join([header, *rows]) + "\n"


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def make(root, name="toy", **files):
    """Writes files (name with __ for the dot: text or bytes) and returns the root."""
    folder = root / name
    folder.mkdir()
    for key, content in {"inter__csv": table(), **files}.items():
        if content is not None:
            content = content.encode() if isinstance(content, str) else content
            (folder / key.replace("__", ".")).write_bytes(content)
    return root


def pairs(part):
    return list(zip(part.users.tolist(), part.item.tolist(), strict=True))


def test_predefined_split_without_features(tmp_path):
    data = mmrec.load(make(tmp_path), "toy")
    assert data.split == "predefined"
    assert pairs(data.train) == [(0, 0), (0, 1), (1, 1), (1, 3)]
    assert pairs(data.valid) == [(0, 2), (1, 0)]
    assert pairs(data.test) == [(0, 3), (1, 2)]
    assert data.features == {} and data.planted is None
    assert data.item_ids.tolist() == ["0", "1", "2", "3"]
    assert any("no item features" in note for note in data.notes)


def test_tabs_column_order_mmrec_spelling_extra_columns_bom_and_blank_end(tmp_path):
    rows = [f"{t}\tx\t{label}\t{i}\t{u}" for u, i, label, t in (r.split(",") for r in SPLIT_ROWS)]
    text = table(rows, "timestamp\textra\tx_label\titemID\tuserID")
    root = make(tmp_path, inter__csv=None, toy__inter="\ufeff" + text + "\n\n")
    assert mmrec.load(root, "toy").fingerprint == _reference(tmp_path).fingerprint


def test_windows_line_ends(tmp_path):
    root = make(tmp_path, inter__csv=table().replace("\n", "\r\n"))
    assert mmrec.load(root, "toy").fingerprint == _reference(tmp_path).fingerprint


def _reference(tmp_path):
    root = tmp_path / "reference"
    root.mkdir()
    return mmrec.load(make(root), "toy")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_features_become_float32_in_a_fixed_order(tmp_path, dtype):
    values = np.arange(12).reshape(4, 3).astype(dtype)
    root = make(
        tmp_path,
        audio_feat__npy=npy(values),
        image_features__npy=npy(np.asfortranarray(values)),
        text_feat__npy=npy(values[:, :2]),
        image_features_pca128__npy=b"not read",
    )
    data = mmrec.load(root, "toy")
    assert list(data.features) == ["text", "image", "audio"]
    for feature in data.features.values():
        assert feature.dtype == np.float32 and feature.flags.c_contiguous
    np.testing.assert_array_equal(data.features["image"], np.arange(12).reshape(4, 3))


def test_mappings_give_the_original_ids(tmp_path):
    root = make(
        tmp_path,
        i_id_mapping__csv="asin\titemID\nB0\t3\nB1\t2\nNA\t1\n007\t0\n",
        u_id_mapping__csv="user_id,userID\nzoe,1\nann,0\n",
    )
    data = mmrec.load(root, "toy")
    assert data.item_ids.tolist() == ["007", "NA", "B1", "B0"]
    assert data.user_ids.tolist() == ["ann", "zoe"]


def test_a_mapping_whose_columns_may_be_exchanged_is_refused(tmp_path):
    rows = "{},{}\n0,2\n1,3\n2,0\n3,1\n"
    root = make(tmp_path, i_id_mapping__csv=rows.format("itemID", "item_id"))
    with pytest.raises(InputError) as caught:
        mmrec.load(root, "toy")
    assert_one_line(caught.value, [I_MAP, "row 1", "itemID, item_id", "original id first"])
    # The usual names, and original ids that cannot be dense ids.
    for text, ids in (
        (rows.format("item_id", "itemID"), ["2", "3", "0", "1"]),
        ("itemID,number\n7,2\n1,3\n2,0\n3,1\n", ["2", "3", "7", "1"]),
    ):
        (root / "toy" / I_MAP).write_text(text)
        assert mmrec.load(root, "toy").item_ids.tolist() == ids


def test_ids_are_names_so_gaps_make_no_items(tmp_path):
    rows = ["90,1000,0,1", "90,7,1,2", "90,30,2,3", "5,7,0,1", "5,1000,1,2"]
    data = mmrec.load(make(tmp_path, inter__csv=table(rows)), "toy")
    assert data.user_ids.tolist() == ["5", "90"]
    # Sorted as numbers, not as text.
    assert data.item_ids.tolist() == ["7", "30", "1000"]
    assert pairs(data.train) == [(0, 0), (1, 2)] and pairs(data.test) == [(1, 1)]


def test_any_text_is_an_id_and_leading_zeros_are_kept(tmp_path):
    rows = ["ann,007,0,1", "ann,7,1,2", "ann,B0,2,3", "zoë, 7.0,0,1"]
    data = mmrec.load(make(tmp_path, inter__csv=table(rows)), "toy")
    assert data.user_ids.tolist() == ["ann", "zoë"]
    assert data.item_ids.tolist() == ["007", "7", "B0"]
    assert pairs(data.train) == [(0, 0), (1, 1)]


def test_items_of_the_features_that_never_occur_are_counted(tmp_path):
    root = make(tmp_path, text_feat__npy=npy(np.ones((7, 3), np.float32)))
    data = mmrec.load(root, "toy")
    assert data.num_items == 7
    (note,) = (note for note in data.notes if "never occur" in note)
    assert "3 of 7 items of text_feat.npy" in note and "candidates" in note


def test_users_of_the_mapping_without_interactions_are_left_out(tmp_path):
    root = make(tmp_path, u_id_mapping__csv="u,userID\nx,0\ny,1\nz,2\n")
    data = mmrec.load(root, "toy")
    assert data.user_ids.tolist() == ["x", "y"]
    assert any("left out 1 users of u_id_mapping.csv" in note for note in data.notes)


NANOSECONDS = [1_500_000_000_000_000_000 + 100 * place for place in (3, 1, 2, 0)]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text + "\n",
        lambda text: text + ",,\n",
        lambda text: text.replace("300\n", "300.0\n"),
    ],
    ids=["plain", "blank line", "empty row", "decimal point"],
)
def test_times_are_never_rounded(tmp_path, change):
    # As floats these four times are equal, and the order in the file would decide.
    rows = [f"0,{item},{time}" for item, time in enumerate(NANOSECONDS)]
    text = change(table(rows, "userID,itemID,timestamp"))
    data = mmrec.load(make(tmp_path, inter__csv=text), "toy")
    assert (pairs(data.valid), pairs(data.test)) == ([(0, 2)], [(0, 0)])
    assert data.test.time.tolist() == [NANOSECONDS[0]]


@pytest.mark.parametrize("other", ["ns_blank", "ns_decimal"])
def test_the_case_files_of_nanoseconds_give_one_split(other):
    cases = _real_root("KU").parent / "cases"
    if not cases.is_dir():
        pytest.skip(f"no small cases in {cases}")
    plain, changed = (load_dataset(name, data_root=cases) for name in ("ns", other))
    assert plain.fingerprint == changed.fingerprint


def test_columns_that_are_not_used_are_named(tmp_path):
    rows = [f"{row},4,x" for row in SPLIT_ROWS]
    data = mmrec.load(make(tmp_path, inter__csv=table(rows, f"{HEADER},rating,shop")), "toy")
    assert any("column rating is not used" in note for note in data.notes)
    assert "inter.csv: not used: column shop" in data.notes


def test_arrays_that_are_not_read_are_named(tmp_path):
    root = make(tmp_path, clip__npy=npy(np.ones((4, 3), np.float32)), notes__txt="mine")
    data = mmrec.load(root, "toy")
    assert data.features == {}
    (note,) = (note for note in data.notes if "clip.npy" in note)
    assert "is not read" in note and "clip_features.npy" in note
    assert not any("notes.txt" in note for note in data.notes)


@pytest.mark.parametrize(
    "suffix, compress",
    [("", gzip.compress), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_compressed_tables_are_read(tmp_path, suffix, compress):
    root = make(tmp_path, inter__csv=None)
    (root / "toy" / f"inter.csv{suffix}").write_bytes(compress(table().encode()))
    assert mmrec.load(root, "toy").fingerprint == _reference(tmp_path).fingerprint


@pytest.mark.parametrize("separator", [";", "|", "\t"])
def test_other_separators_are_read(tmp_path, separator):
    root = make(tmp_path, inter__csv=table().replace(",", separator))
    assert mmrec.load(root, "toy").fingerprint == _reference(tmp_path).fingerprint


def test_utf_16_is_read(tmp_path):
    root = make(tmp_path, inter__csv=table().encode("utf-16"))
    assert mmrec.load(root, "toy").fingerprint == _reference(tmp_path).fingerprint


def test_a_folder_named_like_the_generator_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"folder .*synthetic.* rename it"):
        load_dataset("synthetic", data_root=make(tmp_path, "synthetic"))


def test_leave_one_out_ignores_the_split_column(tmp_path):
    data = mmrec.load(make(tmp_path), "toy", split="leave-one-out")
    assert pairs(data.test) == [(0, 3), (1, 2)]
    assert any("column split_label is not used" in note for note in data.notes)


def test_auto_without_split_column_is_leave_one_out_and_merges_first(tmp_path):
    rows = ["0,5,9", "0,1,2", "0,2,3", "0,3,4", "0,5,1"]
    root = make(tmp_path, inter__csv=table(rows, "userID,itemID,timestamp"))
    data = mmrec.load(root, "toy")
    # The earliest time of item 5 is 1, so the order is 5, 1, 2, 3.
    assert data.split == "leave-one-out"
    assert data.item_ids.tolist() == ["1", "2", "3", "5"]
    assert (pairs(data.train), pairs(data.valid), pairs(data.test)) == (
        [(0, 0), (0, 3)],
        [(0, 1)],
        [(0, 2)],
    )
    assert "inter.csv: merged 1 duplicate interactions (user, item); first at line 6" in data.notes


def test_duplicates_of_one_part_are_merged_or_refused(tmp_path):
    root = make(tmp_path, inter__csv=table([*SPLIT_ROWS, "0,1,0,1", "0,3,2,9"]))
    data = mmrec.load(root, "toy")
    assert "inter.csv: merged 2 duplicate interactions (user, item); first at line 10" in data.notes
    assert len(data.train) == 4
    with pytest.raises(
        InputError, match=r"inter.csv, row 10, columns userID, itemID: .*\('0', '1'\)"
    ):
        mmrec.load(root, "toy", duplicates="error")


def test_targets_of_an_earlier_part_are_left_out(tmp_path):
    rows = [*SPLIT_ROWS, "0,0,1,5", "0,2,2,6", "1,1,2,7"]
    data = mmrec.load(make(tmp_path, inter__csv=table(rows)), "toy", duplicates="error")
    assert pairs(data.valid) == [(0, 2), (1, 0)]
    assert pairs(data.test) == [(0, 3), (1, 2)]
    assert any("left 1 valid targets out" in n and "line 10" in n for n in data.notes)
    assert any("left 2 test targets out" in n and "line 11" in n for n in data.notes)


def test_global_time_drops_users_without_train_and_keeps_ids(tmp_path):
    # Ten rows: train is time < 8, valid is time 8, test is time 9. User 0 comes last.
    rows = [f"1,{t},{t}" for t in range(4)] + [f"2,{t},{t}" for t in range(4, 9)] + ["0,0,9"]
    root = make(
        tmp_path,
        inter__csv=table(rows, "userID,itemID,timestamp"),
        u_id_mapping__csv="u,d\nlate,0\na,1\nb,2\n",
    )
    data = mmrec.load(root, "toy", split="global-time")
    assert data.user_ids.tolist() == ["a", "b"]
    assert len(data.train) == 8 and pairs(data.valid) == [(1, 8)] and len(data.test) == 0
    assert any("dropped 1 users without train" in note for note in data.notes)


def test_users_may_lack_valid_or_test(tmp_path):
    data = mmrec.load(make(tmp_path, inter__csv=table(["0,0,0,1", "1,1,0,1", "1,0,2,2"])), "toy")
    assert data.valid.counts.tolist() == [0, 0] and data.test.counts.tolist() == [0, 1]


def forged(shape, dtype="<f4", body=b"\0" * 48):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


GOOD = np.ones((4, 3), np.float32)
HOLE = np.array([[1, 2], [3, 4], [5, np.nan], [7, 8]], np.float32)
HUGE = np.array([[1, 2], [3, 1e300], [5, 6], [7, 8]])
I_MAP = "i_id_mapping.csv"
NO_TIME = table([row.rsplit(",", 1)[0] for row in SPLIT_ROWS], "userID,itemID,split_label")

# Name: (files, texts that the message must contain).
BAD_FILES = {
    "empty": ({"inter__csv": ""}, ["inter.csv", "empty"]),
    "only a header": ({"inter__csv": HEADER + "\n"}, ["inter.csv", "no rows"]),
    "no file": ({"inter__csv": None}, ["toy", "expected exactly one"]),
    "two files": ({"inter__tsv": table()}, ["inter.csv and inter.tsv"]),
    "no item column": (
        {"inter__csv": table(header="userID,item,split_label,timestamp")},
        ["inter.csv", "row 1", "no column itemID", "item"],
    ),
    "double colons": (
        {"inter__csv": table().replace(",", "::")},
        ["inter.csv", "row 1", "'::'"],
    ),
    "Parquet": ({"inter__csv": b"PAR1" + b"\0" * 40}, ["inter.csv", "Parquet"]),
    "JSON lines": ({"inter__csv": '{"userID": 1}\n'}, ["inter.csv", "JSON"]),
    "zip archive": ({"inter__csv": b"PK\x03\x04" + b"\0" * 40}, ["inter.csv", "zip archive"]),
    "Zstandard": ({"inter__csv": b"\x28\xb5\x2f\xfd" + b"\0" * 40}, ["inter.csv", "Zstandard"]),
    "damaged gzip": (
        {"inter__csv": gzip.compress(table().encode())[:-9]},
        ["inter.csv", "compressed file is damaged"],
    ),
    "broken UTF-16": ({"inter__csv": b"\xff\xfea"}, ["inter.csv", "UTF-16"]),
    "only another kind of file": (
        {"inter__csv": None, "inter__parquet": b"PAR1"},
        ["found inter.parquet, expected exactly one of inter.csv"],
    ),
    "column twice": (
        {"inter__csv": table(header="userID,itemID,itemID,timestamp")},
        ["row 1", "'itemID' occurs twice"],
    ),
    "both split columns": (
        {"inter__csv": table(header="userID,itemID,split_label,x_label")},
        ["row 1", "split_label and x_label"],
    ),
    "word for a user of a mapping": (
        {
            "inter__csv": table([*SPLIT_ROWS[:3], "bob,3,2,4"]),
            "u_id_mapping__csv": "u,userID\nx,0\ny,1\n",
        },
        ["inter.csv, row 5, column userID", "'bob'", "[0, 1]"],
    ),
    "word for an item with features": (
        {"inter__csv": table([*SPLIT_ROWS, "0,B07,0,1"]), "text_feat__npy": npy(GOOD)},
        ["inter.csv, row 10, column itemID", "'B07'", "a row of text_feat.npy"],
    ),
    "exponent of a time": (
        {"inter__csv": table([*SPLIT_ROWS, "0,1,0,1.5e+18"])},
        ["row 10, column timestamp", "'1.5e+18'", "written out"],
    ),
    "time out of range": (
        {"inter__csv": table([*SPLIT_ROWS, f"0,1,0,{2**62 + 1}"])},
        ["row 10, column timestamp", str(2**62 + 1), f"from {-(2**62)} to {2**62}"],
    ),
    "empty user": ({"inter__csv": table([*SPLIT_ROWS, ",1,0,1"])}, ["row 10, column userID"]),
    "blank line": ({"inter__csv": table(["0,0,0,1", "", "0,1,2,2"])}, ["row 3", "userID"]),
    "negative item": (
        {"inter__csv": table([*SPLIT_ROWS, "0,-1,0,1"])},
        ["row 10, column itemID", "-1"],
    ),
    "fraction of an item": (
        {"inter__csv": table([*SPLIT_ROWS, "0,1.5,0,1"])},
        ["row 10, column itemID", "1.5"],
    ),
    "endless item": ({"inter__csv": table([*SPLIT_ROWS, "0,inf,0,1"])}, ["row 10", "inf"]),
    "item beyond integers": (
        {"inter__csv": table([*SPLIT_ROWS, f"0,{10**30},0,1"]), "text_feat__npy": npy(GOOD)},
        ["row 10, column itemID", "1000000000"],
    ),
    "truth for an item": (
        {"inter__csv": table(["0,True,0,1"]), "text_feat__npy": npy(GOOD)},
        ["row 2, column itemID", "True"],
    ),
    "item beyond the features": (
        {"text_feat__npy": npy(GOOD[:3])},
        ["inter.csv, row 5, column itemID", "3", "[0, 2]"],
    ),
    "missing time": (
        {"inter__csv": table([*SPLIT_ROWS, "0,1,0,nan"])},
        ["row 10, column timestamp"],
    ),
    "time in words": (
        {"inter__csv": table([*SPLIT_ROWS, "0,1,0,2020-01-01"])},
        ["row 10, column timestamp", "2020-01-01"],
    ),
    "unknown part": (
        {"inter__csv": table([*SPLIT_ROWS, "0,1,3,1"])},
        ["row 10, column split_label", "found 3", "2 (test)"],
    ),
    "row too long": (
        {"inter__csv": table([*SPLIT_ROWS, "0,1,0,1,7"])},
        ["inter.csv, row 10", "found 5 fields, expected 4"],
    ),
    "first row too long": ({"inter__csv": table(["0,1,0,1,7"])}, ["inter.csv, row 2", "4"]),
    "row too short": ({"inter__csv": table([*SPLIT_ROWS, "0,1"])}, ["row 10, column timestamp"]),
    "unclosed quote": ({"inter__csv": table([*SPLIT_ROWS, '"0,1,0,1'])}, ["inter.csv", "quote"]),
    "NUL byte": ({"inter__csv": table().replace("1,3", "1,\0")}, ["inter.csv, row 4", "NUL"]),
    "not UTF-8": (
        {"inter__csv": table([*SPLIT_ROWS, "0,1,0,"]).encode() + b"\xe9\n"},
        ["inter.csv, row 11", "0xe9"],
    ),
    "binary": ({"inter__csv": bytes(range(256)) * 4}, ["inter.csv, row 1"]),
    "user without train": (
        {"inter__csv": table([*SPLIT_ROWS, "2,1,1,1"])},
        ["inter.csv, row 10, column userID", "user '2'", "no train"],
    ),
    "mapping misses an item": (
        {"i_id_mapping__csv": "a,itemID\nx,0\ny,1\nz,2\n"},
        ["inter.csv, row 5, column itemID", "found '3'"],
    ),
    "mapping skips an id": (
        {"i_id_mapping__csv": "a,itemID\nw,0\nx,1\ny,2\nz,4\n"},
        [f"{I_MAP}, row 5, column itemID", "4"],
    ),
    "dense id twice": (
        {"i_id_mapping__csv": "a,itemID\nw,0\nx,1\ny,1\nz,3\n"},
        [f"{I_MAP}, row 4, column itemID", "twice"],
    ),
    "original id twice": (
        {"i_id_mapping__csv": "a,itemID\nw,0\nx,1\nw,2\nz,3\n"},
        [f"{I_MAP}, row 4, column a", "'w'"],
    ),
    "original id empty": (
        {"i_id_mapping__csv": "a,itemID\nw,0\n,1\ny,2\nz,3\n"},
        [f"{I_MAP}, row 3, column a"],
    ),
    "mapping of three columns": ({"i_id_mapping__csv": "a,b,c\n1,2,3\n"}, [I_MAP, "row 1", "two"]),
    "mapping misses a user": (
        {"u_id_mapping__csv": "u,userID\nx,0\n"},
        ["inter.csv, row 6, column userID", "u_id_mapping.csv"],
    ),
    "features and mapping differ": (
        {"i_id_mapping__csv": "a,i\nw,0\nx,1\ny,2\nz,3\n", "text_feat__npy": npy(GOOD[:3])},
        ["text_feat.npy", "found 3 rows, expected 4", I_MAP],
    ),
    "features differ": (
        {"text_feat__npy": npy(GOOD), "image_feat__npy": npy(GOOD[:2])},
        ["image_feat.npy", "found 2 rows, expected 4", "text_feat.npy"],
    ),
    "one modality twice": (
        {"text_feat__npy": npy(GOOD), "text_features__npy": npy(GOOD)},
        ["text_features.npy", "second file"],
    ),
    "modality id": ({"id_feat__npy": npy(GOOD)}, ["id_feat.npy", "'id'"]),
    "huge feature": (
        {"text_feat__npy": npy(np.nan_to_num(HOLE, nan=1e30))},
        ["text_feat.npy, row 2, column 1", "1e+30", "to 1e+15"],
    ),
    "NaN feature": ({"text_feat__npy": npy(HOLE)}, ["text_feat.npy, row 2, column 1", "nan"]),
    "overflowing feature": ({"text_feat__npy": npy(HUGE)}, ["row 1, column 1", "1e+300"]),
    "integer features": ({"text_feat__npy": npy(GOOD.astype(int))}, ["text_feat.npy", "int64"]),
    "flat features": ({"text_feat__npy": npy(GOOD[0])}, ["text_feat.npy", "(3,)"]),
    "features of no width": ({"text_feat__npy": npy(GOOD[:, :0])}, ["text_feat.npy", "(4, 0)"]),
    "pickled features": (
        {"text_feat__npy": npy(np.array([[{}], [{}], [{}], [{}]]))},
        ["text_feat.npy", "pickled"],
    ),
    "truncated features": ({"text_feat__npy": npy(GOOD)[:-5]}, ["text_feat.npy", "truncated"]),
    "bytes after the features": ({"text_feat__npy": npy(GOOD) + b"!"}, ["text_feat.npy", "49"]),
    "forged shape": (
        {"text_feat__npy": forged("(4000000000, 4000000000)")},
        ["text_feat.npy", "header declares"],
    ),
    "forged negative shape": ({"text_feat__npy": forged("(-4, -3)")}, ["text_feat.npy", "-4"]),
    "header that is no header": ({"text_feat__npy": forged("(4, 3")}, ["text_feat.npy", "header"]),
    "empty features": ({"text_feat__npy": b""}, ["text_feat.npy", "header"]),
    "features that are text": ({"text_feat__npy": "hello"}, ["text_feat.npy", "header"]),
}


def assert_one_line(error, pieces):
    message = str(error)
    assert len(message.splitlines()) == 1 and message.isprintable() and len(message) < 600
    for piece in pieces:
        assert piece in message


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_in_one_line(tmp_path, name):
    files, pieces = BAD_FILES[name]
    root = make(tmp_path, **files)
    with pytest.raises(InputError) as caught:
        mmrec.load(root, "toy")
    assert_one_line(caught.value, pieces)


@pytest.mark.parametrize(
    "arguments, pieces",
    [
        ({"name": "tay"}, ["no data set 'tay'", "found toy", "data_root", "FEDVLR_DATA"]),
        ({"name": "../toy"}, ["'../toy'", "name of a folder"]),
        ({"name": ""}, ["name of a folder"]),
        ({"name": "toy", "split": "random"}, ["split", "'random'", "leave-one-out"]),
        ({"name": "toy", "duplicates": "drop"}, ["duplicates", "'drop'", "merge"]),
        ({"name": "toy", "split": "global-time"}, ["inter.csv", "no column timestamp"]),
        ({"name": "toy", "split": "leave-one-out"}, ["inter.csv", "no column timestamp"]),
    ],
)
def test_a_bad_argument_is_named_in_one_line(tmp_path, arguments, pieces):
    root = make(tmp_path, inter__csv=NO_TIME)
    with pytest.raises(InputError) as caught:
        mmrec.load(root, **arguments)
    assert_one_line(caught.value, pieces)


def test_a_path_is_no_name_whatever_the_root(tmp_path):
    with pytest.raises(InputError, match=r"found '/data/KU', .* in .*nowhere; data_root names"):
        mmrec.load(tmp_path / "nowhere", "/data/KU")


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; data_root or .*FEDVLR_DATA"):
        mmrec.load(tmp_path / "nowhere", "toy")


def test_predefined_needs_the_split_column(tmp_path):
    root = make(tmp_path, inter__csv=table(["0,1,2"], "userID,itemID,timestamp"))
    with pytest.raises(InputError, match="no column split_label"):
        mmrec.load(root, "toy", split="predefined")


def test_a_user_too_short_for_leave_one_out_is_named(tmp_path):
    root = make(tmp_path, inter__csv=table(["0,1,2", "0,2,3", "0,2,4"], "userID,itemID,timestamp"))
    with pytest.raises(InputError, match=r"inter.csv: user 0 has 2 distinct item.*remove users"):
        mmrec.load(root, "toy")


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    root = make(tmp_path, inter__csv=None)
    (root / "toy" / "inter.csv").mkdir()
    with pytest.raises(InputError, match=r"inter\.csv: not a file"):
        mmrec.load(root, "toy")


def _real_root(name):
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("FEDVLR_DATA_ROOT", beside))
    if not (root / name).is_dir():
        pytest.skip(f"real data set {name} is not in {root}; set FEDVLR_DATA_ROOT to its folder")
    return root


def test_the_real_ku():
    data = load_dataset("KU", data_root=_real_root("KU"))
    assert (data.num_users, data.num_items, data.split) == (204, 560, "predefined")
    assert (len(data.train), len(data.valid), len(data.test)) == (3081 - 5, 204, 204)
    assert {name: value.shape for name, value in data.features.items()} == {
        "text": (560, 512),
        "image": (560, 512),
    }
    assert any("merged 5 duplicate interactions" in note for note in data.notes)
    assert any("16 of 560 items have no train interaction" in note for note in data.notes)


def test_the_real_ml():
    data = load_dataset("ML", data_root=_real_root("ML"))
    assert (data.num_users, data.num_items) == (610, 3650)
    assert [note.partition(",")[0] for note in data.notes] == [
        "inter.csv: column rating is not used"
    ]
    assert (len(data.train), len(data.valid), len(data.test)) == (89054, 610, 610)
    assert {name: value.shape[1] for name, value in data.features.items()} == {
        "text": 384,
        "image": 1280,
    }
