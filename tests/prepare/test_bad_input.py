"""The message for each fault of a raw file: one line with the place and an option that helps."""

import gzip
import io
import zipfile

import polars as pl
import pytest

from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare import Options, prepare
from fedvlr_jax.prepare.items import read_items
from tests.conftest import ROOT
from tests.prepare.forms import put
from tests.prepare.test_forms import table

HEADER = "user_id,item_id,rating,timestamp\n"
GOOD = "u1,i1,5,100\nu1,i2,4,200\n"


def archive(files):
    """The bytes of a zip archive of {name: text}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name, text in files.items():
            written.writestr(name, text)
    return buffer.getvalue()


def refused(tmp_path, name, content, **options):
    """The one-line message with which `prepare` refuses the file; checks that no file remains."""
    raw = tmp_path / "raw" / name
    raw.parent.mkdir(exist_ok=True)
    raw.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        prepare(raw, tmp_path / "data/out", Options(min_user_interactions=1, **options))
    assert not list(tmp_path.glob("data/*"))
    line = error.value.line
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ("u2,i1,good,300\n", "row 4, column rating: found 'good'"),
        ("u2,i1,nan,300\n", "row 4, column rating: found 'nan'"),
        ("u2,i1,,300\n", "row 4, column rating: found an empty or missing value"),
        ("u2,i1,3,2020-01-01\n", "row 4, column timestamp: found '2020-01-01'"),
        ("u2,i1,3,1.5\n", "row 4, column timestamp: found '1.5'"),
        ("u2,i1,3,99999999999999999999\n", "row 4, column timestamp: found '99999999999999999999'"),
        ("u2,,3,300\n", "row 4, column item_id: found an empty or missing value"),
        (" ,i1,3,300\n", "row 4, column user_id: found"),
        ("u2,i1,3\n", "row 4: found 3 fields, expected 4"),
        ("u2,i1,3,300,9\n", "row 4: found 5 fields, expected 4"),
        ("\n\nu2,i1,x,300\n", "row 6, column rating: found 'x'"),
        ('"a\nb",i1,3,300\nu2,i1,x,300\n', "row 6, column rating: found 'x'"),
    ],
)
def test_a_cell(rows, place, tmp_path):
    line = refused(tmp_path, "toy.csv", HEADER + GOOD + rows + "u3,i1,1,1\n")
    assert f"toy.csv, {place}" in line


def test_options_that_help(tmp_path):
    bad = HEADER + "u1,i1,good,1.5\n"
    assert "--rating=none" in refused(tmp_path, "toy.csv", bad)
    assert "--time_decimals=1" in refused(tmp_path, "toy.csv", bad, rating="none")
    raw = tmp_path / "raw/toy.csv"
    options = Options(rating="none", time_decimals=1, min_user_interactions=1)
    prepare(raw, tmp_path / "data/out", options)
    assert (tmp_path / "data/out/inter.csv").read_text() == "userID,itemID,timestamp\n0,0,15\n"


DAY = 24 * 3600 * 10**6


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("2020-01-02", "", 18_263 * DAY),
        ("2020-01-02T00:00", "", 18_263 * DAY),
        ("2020-01-02 00:00:01.5", "", 18_263 * DAY + 1_500_000),
        ("2020-01-02T00:00:00Z", "", 18_263 * DAY),
        ("2020-01-02T02:00:00+02:00", "", 18_263 * DAY),
        ("1/2/2020", "%m/%d/%Y", 18_263 * DAY),
        ('"01 2, 2020"', "%m %d, %Y", 18_263 * DAY),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_dates(text, given, expected, form, tmp_path):
    """18,263 days are from 1970-01-01 to 2020-01-02. Dates of ISO 8601 need no option."""
    raw = tmp_path / f"toy.{form}"
    frame = pl.DataFrame({"user": ["u"], "item": ["i"], "date": [text.strip('"')]})
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[form](raw)
    options = Options(time_format=given, min_user_interactions=1)
    notes = prepare(raw, tmp_path / "out", options).notes
    rows = (tmp_path / "out/inter.csv").read_text().splitlines()
    assert rows[1:] == [f"0,0,{expected}"]
    assert any("the times are dates of the format %Y" in note for note in notes) == (not given)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/2/2020", "--time_format='%m/%d/%Y' or --time_format='%d/%m/%Y'"),
        ("31.12.2020 10:11", "--time_format='%d.%m.%Y %H:%M'"),
        ("Wed Jan 01 10:00:00 +0000 2020", "--time_format='%a %b %d %H:%M:%S %z %Y'"),
        ("1500000000.25", "--time_decimals=2 keeps the fraction"),
        ("1.5E+09", "found '1.5E+09', expected a whole number with all its digits, which an exp"),
        ("yesterday", "--time=lines"),
    ],
)
def test_a_date_is_refused_with_the_option_that_reads_it(text, expected, tmp_path):
    assert expected in refused(tmp_path, "toy.csv", HEADER + f"u,i,3,{text}\n")


def test_a_date_of_another_format(tmp_path):
    rows = "u,i,3,2020-01-02\nu,j,3,15\n"
    line = refused(tmp_path, "toy.csv", HEADER + rows)
    assert "row 3, column timestamp: found '15', expected a date of the format %Y-%m-%d" in line


def test_a_file_without_header_with_dates(tmp_path):
    line = refused(tmp_path, "toy.csv", "a1,b2,3.0,2020-01-02\n")
    assert "--columns=user,item,rating,time" in line


def test_columns_that_could_be_the_user(tmp_path):
    two = "user_id,reviewer_id,item_id,timestamp\na,b,c,1\n"
    line = refused(tmp_path, "toy.csv", two)
    assert "columns user_id and reviewer_id could both be the user" in line and "--user=" in line
    line = refused(tmp_path, "toy.csv", "user_id,USER_ID,item_id,timestamp\na,b,c,1\n")
    assert "columns user_id and USER_ID could both be the user" in line and "--user=" in line
    line = refused(tmp_path, "toy.csv", "151603712,Skyrim,3.0\n151603713,Portal,4.0\n")
    assert "columns 1, 2 could each be the user: if this row is data, give " in line
    assert "--columns=user,item,rating with" in line
    line = refused(tmp_path, "toy.csv", "a1,b2,3.0,1500000000\n")
    assert "columns 1, 2 could each be the user" in line
    assert "--columns=user,item,rating,time" in line
    line = refused(tmp_path, "toy.csv", "person,thing,when\na,b,c\n")
    assert "could each be the user" in line and "--header=yes" in line


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"user": "nobody"}, "--user=nobody: toy.csv has no such column"),
        ({"user": "0"}, "--user=0: toy.csv has the columns 1 to 4"),
        ({"user": "item_id"}, "--user and --item: both are column item_id"),
        ({"columns": "user,item"}, "--columns=user,item: names 2 columns"),
        ({"columns": "user,item,item,time"}, "found 'item'"),
        ({"time_format": "%Y", "time_decimals": 1}, "--time_decimals: needs times that are"),
        ({"time_format": "%Q"}, "row 2, column timestamp"),
        ({"items": "absent.csv"}, "--items=absent.csv: no such file"),
        ({"title": "title"}, "--items"),
        ({"min_rating": 6}, "--min_rating=6: no interaction has such a high rating"),
        ({"min_rating": 1, "rating": "none"}, "--min_rating=1: the file has no ratings"),
        ({"min_item_interactions": 3}, "no row remains; a user has at most 2 interactions"),
        ({"split": "leave-one-out"}, "--min_user_interactions=3"),
        ({"split": "global-time"}, "--split=global-time"),
        ({"time": "lines", "time_format": "%Y"}, "--time_format: does nothing with --time=lines"),
        ({"time": "random", "time_decimals": 3}, "--time_decimals: does nothing with --time=ra"),
    ],
)
def test_options_that_do_not_fit(options, found, tmp_path):
    assert found in refused(tmp_path, "toy.csv", HEADER + GOOD, **options)


@pytest.mark.parametrize(("name", "value"), [("separator", ";"), ("header", "no")])
def test_options_of_delimited_text(name, value, tmp_path):
    line = '{"user_id": "u", "item_id": "i", "timestamp": 1}\n'
    found = refused(tmp_path, "toy.jsonl", line, **{name: value})
    assert (
        found == f"--{name}={value}: does nothing for toy.jsonl, which is JSON lines; leave it out"
    )


MIND = "1\tU7\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0\n"


@pytest.mark.parametrize(
    ("content", "options", "found"),
    [
        ("0 3 4 5 6\n1 2 9\n", {}, "'0 3 4 5 6', a user and its items, as LightGCN"),
        ("0 3 4 5 6\n1 2 9\n", {"separator": "space"}, "a user and its items, as LightGCN"),
        (MIND, {}, "found the impressions of MIND in column 5"),
    ],
)
def test_lines_with_several_items(content, options, found, tmp_path):
    line = refused(tmp_path, "toy.txt", content, **options)
    assert found in line and "docs/data.md, 'Lines with several items', has the command" in line
    assert "### Lines with several items" in (ROOT / "docs/data.md").read_text()


def test_a_table_of_five_numbers_whose_columns_are_named(tmp_path):
    raw = put(tmp_path / "toy.txt", "1 2 9 5 100\n1 3 9 4 200\n1 4 9 4 300\n")
    options = Options(separator="space", columns="user,item,-,rating,time", min_user_interactions=1)
    prepare(raw, tmp_path / "out", options)
    assert [row["timestamp"] for row in table(tmp_path / "out/inter.csv")] == ["100", "200", "300"]


def test_no_time(tmp_path):
    line = refused(tmp_path, "toy.csv", "user,item\nu,i\nu,j\nu,k\n")
    assert "--time=lines" in line
    options = Options(time="lines", min_user_interactions=1)
    prepare(tmp_path / "raw/toy.csv", tmp_path / "data/out", options)
    rows = (tmp_path / "data/out/inter.csv").read_text().splitlines()
    assert rows == ["userID,itemID,timestamp", "0,0,0", "0,1,1", "0,2,2"]
    with pytest.raises(InputError, match=r"time=lines for the order .* or time=random"):
        Options(time="none")


@pytest.mark.parametrize("name", ["max_users", "seed", "min_user_interactions"])
def test_a_number_below_zero_is_refused(name):
    with pytest.raises(InputError, match=f"{name}=-1: give a number of at least 0"):
        Options(**{name: -1})


def test_a_random_order(tmp_path):
    """A file that is sorted by item would give every user the same last item."""
    raw = put(tmp_path / "toy.csv", "user,item\n" + "".join(f"u,{i}\n" for i in range(50)))

    def times(name, seed):
        options = Options(time="random", seed=seed, min_user_interactions=1)
        prepare(raw, tmp_path / name, options)
        return [int(row["timestamp"]) for row in table(tmp_path / name / "inter.csv")]

    first = times("a", 0)
    assert sorted(first) == list(range(50)) and first != sorted(first)
    assert times("b", 0) == first != times("c", 1)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "the file is empty"),
        (HEADER.encode(), "no rows of interactions"),
        (HEADER.encode() + b"u,\xff,1,2\n", "row 2: found byte 0xff"),
        (HEADER.encode() + b"u,\0,1,2\n", "row 2: found a NUL byte"),
        (b"user_id,user_id,item_id\n", "column 'user_id' occurs twice"),
        ((HEADER + GOOD).replace("\n", "\r").encode(), "ends with a carriage return only"),
        ((HEADER + GOOD).replace("\n", "\r", 1).encode(), "ends with a carriage return only"),
        ((HEADER + GOOD).encode("utf-16-le"), "row 1: found a NUL byte; save the file as UTF-8"),
        ((HEADER + GOOD).encode("utf-16") + b"x", "found broken UTF-16 text (truncated data)"),
        (b"\x80\x04pickled", "found a pickle; save it as CSV"),
        (b"ARROW1\0\0", "found an Arrow file; save it as CSV"),
        (gzip.compress(b"\0" * 257 + b"ustar"), "found a tar archive; unpack it"),
        (archive({}), "the archive has 0 files"),
        (archive({"a.csv": "", "b.csv": ""}), "the archive has 2 files (a.csv, b.csv); unpack it"),
        (archive({"[Content_Types].xml": ""}), "found a spreadsheet or document; save it as CSV"),
        (archive({"a": "x"})[:20], "the zip archive cannot be read"),
        (b"# my data\n" + HEADER.encode(), "found '# my data', a line of one field"),
        (b"user item time\n", "--separator=space"),
        (gzip.compress(HEADER.encode() + GOOD.encode(), mtime=0)[:40], "damaged or truncated"),
    ],
    # Archives hold the time, so their bytes are no names of tests.
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_a_file_that_cannot_be_read(content, found, tmp_path):
    assert found in refused(tmp_path, "toy.csv", content)


def test_separator_space(tmp_path):
    raw = put(tmp_path / "toy.txt", "user item time\nu i 1\n")
    prepare(raw, tmp_path / "out", Options(separator="space", min_user_interactions=1))
    assert (tmp_path / "out/inter.csv").read_text() == "userID,itemID,timestamp\n0,0,1\n"


def test_ids_that_may_be_wrong_are_named(tmp_path):
    rows = "u1,7,5,100\nnan,7.0,4,200\nu2,8.0,4,200\n"
    raw = put(tmp_path / "toy.csv", HEADER + rows)
    notes = prepare(raw, tmp_path / "out", Options(min_user_interactions=1)).notes
    assert "the user id 'nan' occurs; if it is a missing value, remove its rows" in notes
    assert any(
        "item ids '7' and '7.0' both occur (pairs of this kind: 1)" in note for note in notes
    )
    assert len(notes) == 3  # The third one: no file of items.


def test_json_lines(tmp_path):
    good = '{"user_id":"u","asin":"i","rating":4,"timestamp":100}\n'
    assert "row 2" in refused(tmp_path, "toy.jsonl", good + '{"user_id":"u"\n')
    line = refused(tmp_path, "toy.jsonl", good + '{"user_id":"u","asin":"i","rating":4}\n')
    assert "row 2, column timestamp: found an empty or missing value" in line
    line = refused(tmp_path, "toy.jsonl", good + good.replace('"i"', '{"id":"i"}'))
    assert "row 2, column asin: found {'id': 'i'}, expected a text or a number" in line
    exact = '{"user_id":"u","asin":7,"rating":4,"timestamp":1500000000000000001.0}\n'
    raw = put(tmp_path / "exact.jsonl", exact)
    prepare(raw, tmp_path / "exact", Options(min_user_interactions=1))
    assert "1500000000000000001" in (tmp_path / "exact/inter.csv").read_text()
    assert (tmp_path / "exact/i_id_mapping.csv").read_text() == "item_id,itemID\n7,0\n"
    assert "Python literal" in refused(tmp_path, "toy.json", "{'user_id': 'u'}\n")
    line = refused(tmp_path, "toy.json", "[1,\n2]\n")
    assert "one JSON object a line; this is a list" in line


def test_parquet(tmp_path):
    raw = tmp_path / "toy.parquet"
    good = {"user_id": [1, 2], "item_id": ["007", "7"], "timestamp": [5, 6]}
    pl.DataFrame({**good, "timestamp": [5.0, 6.5]}).write_parquet(raw)
    with pytest.raises(InputError, match=r"row 2, column timestamp: found 6\.5"):
        prepare(raw, tmp_path / "out")
    for kind, exact in ((pl.Float64, 2**53), (pl.Float32, 2**24)):
        times = pl.Series([exact - 1, exact], dtype=kind)
        pl.DataFrame({**good, "timestamp": times}).write_parquet(raw)
        with pytest.raises(InputError, match=f"row 2, column timestamp: .* below {exact}, because"):
            prepare(raw, tmp_path / "out")
    for wrong in (2.5, 2.0**53):
        pl.DataFrame({**good, "user_id": [1.0, wrong]}).write_parquet(raw)
        with pytest.raises(InputError, match=f"row 2, column user_id: found {wrong}, expected"):
            prepare(raw, tmp_path / "out")
    pl.DataFrame({**good, "user_id": [1.0, float("nan")]}).write_parquet(raw)
    with pytest.raises(InputError, match="row 2, column user_id: found an empty or missing"):
        prepare(raw, tmp_path / "out")
    pl.DataFrame({**good, "user_id": [[1], [2]]}).write_parquet(raw)
    with pytest.raises(InputError, match="column user_id: found the type List"):
        prepare(raw, tmp_path / "out")
    pl.DataFrame(good).write_parquet(raw)
    prepare(raw, tmp_path / "out", Options(min_user_interactions=1))
    assert (tmp_path / "out/i_id_mapping.csv").read_text() == "item_id,itemID\n007,0\n7,1\n"
    raw.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        prepare(raw, tmp_path / "out2")


def test_a_folder_with_several_or_none(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        prepare(tmp_path / "absent", tmp_path / "out")
    put(tmp_path / "raw/notes.md", "x")
    with pytest.raises(InputError, match=r"no file of interactions among notes\.md"):
        prepare(tmp_path / "raw", tmp_path / "out")
    for name in ("a.csv", "b.csv"):
        put(tmp_path / "raw" / name, HEADER)
    put(tmp_path / "raw/c.csv", "customer_id,age\n1,2\n")
    with pytest.raises(InputError, match=r"raw: a\.csv, b\.csv could each be the interactions"):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_a_folder_of_folders_or_archives(tmp_path):
    put(tmp_path / "raw/data/a.csv", HEADER)
    with pytest.raises(InputError, match=r"among data/; name it, e\.g\. input=\S+raw/data$"):
        prepare(tmp_path / "raw", tmp_path / "out")
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped/a.zip").write_bytes(archive({"a.csv": f"{HEADER}u,i,5,1\n"}))
    prepared = prepare(tmp_path / "zipped", tmp_path / "out", Options(min_user_interactions=1))
    assert prepared.steps[0][1:] == (1, 1, 1)
    (tmp_path / "zipped/a.zip").write_bytes(archive({"a.csv": HEADER, "b.csv": "x"}))
    with pytest.raises(InputError, match=r"has 2 files .* unzip a\.zip -d FOLDER"):
        prepare(tmp_path / "zipped", tmp_path / "out2")


@pytest.mark.parametrize("name", ["items.csv", "item.csv"])
def test_a_file_named_items_has_the_titles(name, tmp_path):
    put(tmp_path / "raw/bought.csv", f"{HEADER}u,i,5,1\n")
    put(tmp_path / "raw" / name, "item_id,title\ni,One\n")
    prepare(tmp_path / "raw", tmp_path / "out", Options(min_user_interactions=1))
    assert ",One," in (tmp_path / "out/items.csv").read_text()
    put(tmp_path / "raw/items.tsv", "item_id\ttitle\ni\tOther\n")
    several = prepare(tmp_path / "raw", tmp_path / "out2", Options(min_user_interactions=1))
    assert any(line.startswith("no file of items") for line in several.notes)


def test_a_header_that_is_read_as_data_is_named(tmp_path):
    raw = put(tmp_path / "a.csv", "Nutzer,Artikel\nu,i\n")
    given = dict(time="lines", min_user_interactions=1)
    with pytest.raises(InputError, match="if it has the names of the columns, give header=yes"):
        prepare(raw, tmp_path / "out", Options(**given))
    prepared = prepare(raw, tmp_path / "out", Options(**given, columns="user,item"))
    assert any("row 1 is read as data: 'Nutzer,Artikel'" in line for line in prepared.notes)
    given |= dict(columns="user,item", header="yes")
    told = prepare(raw, tmp_path / "out2", Options(**given))
    assert told.steps[0].interactions == 1 and not any("row 1" in line for line in told.notes)


def test_the_only_file_with_users_and_items_is_the_interactions(tmp_path):
    put(tmp_path / "raw/articles.csv", "article_id,prod_name\n01,Socks\n")
    put(tmp_path / "raw/bought.csv", "t_dat,customer_id,article_id\n2020-01-31,u,01\n")
    put(tmp_path / "raw/customers.csv", "customer_id,age\nu,20\n")
    prepared = prepare(tmp_path / "raw", tmp_path / "out", Options(min_user_interactions=1))
    assert prepared.steps[0][1:] == (1, 1, 1)
    assert any(line.startswith("bought.csv: the interactions,") for line in prepared.notes)


def test_columns_that_are_not_used_are_named(tmp_path):
    raw = put(tmp_path / "toy.csv", "user,item,timestamp,mood\nu,i,1,x\n")
    prepared = prepare(raw, tmp_path / "out", Options(min_user_interactions=1))
    assert "toy.csv: columns not used: mood" in prepared.notes
    indexed = put(tmp_path / "indexed.csv", ",user,item,title,timestamp\n0,u,i,One,1\n")
    prepared = prepare(indexed, tmp_path / "out2", Options(min_user_interactions=1))
    assert "indexed.csv: columns not used: column 1 without a name, title" in prepared.notes
    hint = "indexed.csv: if title is the title of the item, give this file with --items too"
    assert hint in prepared.notes
    given = Options(min_user_interactions=1, items=str(indexed))
    assert hint not in prepare(indexed, tmp_path / "out3", given).notes
    notes: list[str] = []
    read_items(put(tmp_path / "items.csv", "item,title,image,plot\n1,One,x,y\n"), notes=notes)
    assert notes == ["items.csv: 1 items, titles from column title; columns not used: plot"]


@pytest.mark.parametrize(
    ("header", "identity", "title"),
    [
        ("article_id,prod_name,detail_desc", "article_id", "prod_name"),
        ("app_id,title,win", "app_id", "title"),
        ("business_id,name,stars", "business_id", "name"),
        ("id,movie title,movie", "id", "movie title"),
        ("isbn,book-title,author", "isbn", "book-title"),
    ],
)
def test_the_columns_of_items_are_found(header, identity, title, tmp_path):
    """Each name of the interactions' item is also one of the items' id; the header is no item."""
    columns = header.split(",")
    cells = ",".join(f"the {column}" for column in columns)
    items = read_items(put(tmp_path / "i.csv", f"{header}\n{cells}\n"), notes=[])
    assert {key: item.title for key, item in items.items()} == {f"the {identity}": f"the {title}"}


def test_entities_in_titles_are_decoded(tmp_path):
    notes: list[str] = []
    path = put(tmp_path / "i.csv", "id,title\n1,Salt &amp; Pepper &#39;n&#39; more\n2,A & B\n")
    items = read_items(path, notes=notes)
    assert [item.title for item in items.values()] == ["Salt & Pepper 'n' more", "A & B"]
    assert notes[0] == "i.csv: 1 titles have HTML entities such as &amp;, now decoded"


@pytest.mark.parametrize("before", ["", "\n", "\n \n"])
def test_the_header_of_items_is_no_item(before, tmp_path):
    items = put(tmp_path / "items.csv", f"{before}item,title\n1,One\n2,Two\n")
    assert set(read_items(items, notes=[])) == {"1", "2"}
