"""Generated files: the loader refuses a file in one line, or agrees with an independent reader.

FEDVLR_FUZZ_EXAMPLES is the number of generated files.
"""

import csv
import io
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedvlr_jax.data import mmrec
from fedvlr_jax.errors import InputError
from tests.data.test_mmrec import BAD_FILES, SPLIT_ROWS, assert_one_line, make, npy, table

EXAMPLES = int(os.environ.get("FEDVLR_FUZZ_EXAMPLES", 100))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FEDVLR_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    database=None,
)

# The accepted forms of a whole number; spreadsheets write 1.0.
WHOLE = re.compile(r"\s*[+-]?\d+(\.0*)?\s*", re.ASCII)
TOKENS = [
    *("0", "1", "2", "3", "1.0", "2e0", " 1", "+1", "-1", "-0", "1.5", "1e400", "--1", "1e18"),
    *("nan", "NaN", "inf", "NA", "", " ", "null", "None", "True", "0x1", "1_0", "١", "é", "#"),
    *("1,", '"1"', '"', "a", "\0", "\ufeff1", "1;2", "1\t2", "\r", "1\n"),
    *("9" * 25, str(2**31), str(2**63)),
]


def load(files):
    """The data set of these files; None if the loader refused them in one line."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return mmrec.load(make(Path(folder), **files), "toy")
        except InputError as error:
            assert_one_line(error, [])
            return None


def whole(cell):
    """The integer in a cell; any other cell means that the loader should have refused the file."""
    assert WHOLE.fullmatch(cell), f"accepted {cell!r}"
    return int(cell.partition(".")[0])


def name(cell):
    """The id in a cell; for a number that is not an id, the loader should have refused the file."""
    cell = cell.strip()
    if WHOLE.fullmatch(cell):
        assert cell[0] not in "+-", f"accepted {cell!r}"
        return cell.partition(".")[0]
    try:
        number = float(cell)
    except ValueError:
        assert cell, "accepted an empty id"
        return cell
    raise AssertionError(f"accepted {number} as an id")


def pairs_of(text):
    """The (user, item) pairs of a file, by Python's own CSV reader."""
    text = text.removeprefix("\ufeff").rstrip("\r\n")
    first = text.split("\n")[0]
    separator = max("\t,;|", key=first.count)
    # Accept all three line ends, as Python does in text mode.
    rows = list(csv.reader(io.StringIO(text, newline=None), delimiter=separator))
    names = [column.strip() for column in rows[0]]
    user, item = names.index("userID"), names.index("itemID")
    filled = [row for row in rows[1:] if any(row)]
    return {(name(row[user]), name(row[item])) for row in filled}


def check_same(data, text):
    parts = (data.train, data.valid, data.test)
    found = {
        (str(data.user_ids[u]), str(data.item_ids[i]))
        for p in parts
        for u, i in zip(p.users, p.item, strict=True)
    }
    assert found == pairs_of(text)
    assert (data.train.counts > 0).all()


@fuzz
@given(
    st.lists(
        st.tuples(
            st.integers(0, 7), st.integers(0, 3), st.sampled_from(TOKENS) | st.text(max_size=3)
        ),
        max_size=3,
    )
)
def test_odd_cells_are_refused_or_read_right(changes):
    rows = [row.split(",") for row in SPLIT_ROWS]
    for row, column, token in changes:
        rows[row][column] = token
    text = table([",".join(row) for row in rows])
    try:
        content = text.encode()
    except UnicodeEncodeError:
        return
    data = load({"inter__csv": content})
    if data is not None:
        check_same(data, text)


def edit(content, edits):
    for kind, place, value in edits:
        place %= max(1, len(content))
        if kind == "set":
            content[place : place + 1] = bytes([value])
        elif kind == "insert":
            content[place:place] = bytes([value])
        elif kind == "delete":
            del content[place : place + 1 + value % 8]
        else:
            del content[place:]
    return bytes(content)


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "insert", "delete", "cut"]),
        st.integers(0, 10_000),
        st.sampled_from([*b'\n\r\t ,";0129.-', *b"aeN\x00\xff\xc3"]) | st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)


@fuzz
@given(EDITS)
def test_edited_bytes_of_a_table_are_refused_or_read_right(edits):
    content = edit(bytearray(table().encode()), edits)
    data = load({"inter__csv": content})
    if data is not None:
        check_same(data, content.decode())


@fuzz
@given(EDITS)
def test_edited_bytes_of_features_are_refused_or_read_right(edits):
    good = np.arange(12, dtype=np.float32).reshape(4, 3)
    content = edit(bytearray(npy(good)), edits)
    data = load({"text_feat__npy": content})
    if data is not None:
        expected = np.load(io.BytesIO(content), allow_pickle=False)
        np.testing.assert_array_equal(data.features["text"], expected.astype(np.float32))


@fuzz
@given(EDITS)
def test_edited_bytes_of_a_mapping_are_refused_or_read_right(edits):
    content = edit(bytearray(b"a,itemID\nw,0\nx,1\ny,2\nz,3\n"), edits)
    data = load({"i_id_mapping__csv": content})
    if data is not None:
        text = io.StringIO(content.decode("utf-8-sig"), newline=None)
        rows = [row for row in csv.reader(text) if any(row)]
        expected = {whole(dense): original for original, dense in rows[1:]}
        assert dict(enumerate(data.item_ids.tolist())) == expected


def header(text, version=b"\x01\x00", body=b"\0" * 48):
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text + body


HOSTILE_ARRAYS = {
    "a call in the header": header(b"__import__('os').system('touch hacked')\n"),
    "a call as the shape": header(b"{'descr':'<f4','fortran_order':False,'shape':exit(),}\n"),
    "a header of a gigabyte": b"\x93NUMPY\x02\x00" + (2**30).to_bytes(4, "little") + b"{",
    "a header that nests": header(b"(" * 9000 + b")" * 9000 + b"\n"),
    "an object type": header(b"{'descr':'|O','fortran_order':False,'shape':(4,3),}\n"),
    "a structured type": header(b"{'descr':[('a','<f4')],'fortran_order':False,'shape':(4,3),}\n"),
    "a type of no size": header(b"{'descr':'|V0','fortran_order':False,'shape':(4,3),}\n"),
    "a shape that overflows": header(
        b"{'descr':'<f4','fortran_order':False,'shape':(%d,%d),}\n" % (2**62, 2**62)
    ),
    "a shape of words": header(b"{'descr':'<f4','fortran_order':False,'shape':('4','3'),}\n"),
    "a shape of truths": header(b"{'descr':'<f4','fortran_order':False,'shape':(True,12),}\n"),
    "a key too many": header(b"{'descr':'<f4','fortran_order':False,'shape':(4,3),'x':1}\n"),
    "version 9": header(b"{'descr':'<f4','fortran_order':False,'shape':(4,3),}\n", b"\x09\x00"),
    "a zip archive": b"PK\x03\x04" + b"\0" * 60,
    "a bare pickle": b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.",
}


@pytest.mark.parametrize("name", HOSTILE_ARRAYS)
def test_a_hostile_array_is_refused_and_does_no_harm(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load({"text_feat__npy": HOSTILE_ARRAYS[name]}) is None
    assert list(tmp_path.iterdir()) == []


def test_there_are_enough_named_bad_inputs():
    assert len(BAD_FILES) + len(HOSTILE_ARRAYS) >= 60
