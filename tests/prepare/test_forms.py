"""Every form gives the same data set."""

import csv
import json
import os
from pathlib import Path

import pytest

from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare import Options, prepare, sources, writing
from tests.conftest import ROOT
from tests.prepare import forms

CASES = ROOT.parent / "shared" / "cases"
CASE_INPUTS = (
    *("recbole", "movielens", "movielens-csv", "amazon/Toy.csv", "amazon/Toy.jsonl.gz"),
    *("ninerec", "gaps", "noheader", "ns", "ns_blank", "ns_decimal"),
)


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def original(folder):
    """[(original user, original item, time)] of the rows of inter.csv."""
    users = {row["userID"]: row["user_id"] for row in table(folder / "u_id_mapping.csv")}
    items = {row["itemID"]: row["item_id"] for row in table(folder / "i_id_mapping.csv")}
    return [
        (users[row["userID"]], items[row["itemID"]], int(row["timestamp"]))
        for row in table(folder / "inter.csv")
    ]


def expected():
    """The expected rows, with original ids; of the repeated pair, the earliest row."""
    first = {}
    for user, item, _, time in forms.rows():
        pair = (forms.user_id(user), forms.item_id(item))
        first[pair] = min(time, first.get(pair, time))
    return {(*pair, time) for pair, time in first.items()}


@pytest.mark.parametrize("form", forms.FORMS)
def test_a_form(form, tmp_path):
    forms.FORMS[form](tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "out")
    rows = original(tmp_path / "out")
    assert len(rows) == len(expected()) and set(rows) == expected()
    ids = [int(row["itemID"]) for row in table(tmp_path / "out/i_id_mapping.csv")]
    assert ids == list(range(forms.ITEMS))
    dataset = load_dataset("out", data_root=tmp_path)
    assert (dataset.num_users, dataset.num_items) == (forms.USERS, forms.ITEMS)
    assert "0000123" in dataset.item_ids.tolist()


@pytest.mark.parametrize("form", [name for name in forms.FORMS if "parquet" not in name])
def test_blocks_change_nothing(form, tmp_path, monkeypatch):
    """Blocks end between records, even if a quoted field contains a line break."""
    forms.FORMS[form](tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "whole")
    monkeypatch.setattr(sources, "BLOCK_BYTES", 70)
    monkeypatch.setattr(writing, "_SLICE_ROWS", 9)
    prepare(tmp_path / "raw", tmp_path / "blocks")
    for name in ("inter.csv", "i_id_mapping.csv", "u_id_mapping.csv"):
        whole, blocks = (tmp_path / folder / name for folder in ("whole", "blocks"))
        assert whole.read_bytes() == blocks.read_bytes()


def test_a_fault_in_a_later_block_has_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_BYTES", 30)
    good = 'u1,"i\n1",5,100\n' * 20
    path = forms.put(tmp_path / "toy.csv", f"user,item,rating,time\n{good}u1,i1,x,100\n")
    with pytest.raises(InputError, match="row 42, column rating: found 'x'"):
        prepare(path, tmp_path / "out")


@pytest.mark.parametrize("form", forms.TITLED)
def test_titles_stay_beside(form, tmp_path):
    forms.FORMS[form](tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "out")
    titles = {row["item_id"]: row["title"] for row in table(tmp_path / "out/items.csv")}
    for item, title in enumerate(forms.TITLES):
        if form == "amazon_csv" and item == 1:
            title = ""
        assert titles[forms.item_id(item)].startswith(title) and "\n" not in title
    if form == "amazon_csv":
        images = {row["item_id"]: row["image"] for row in table(tmp_path / "out/items.csv")}
        assert images[forms.item_id(2)] == "https://example.org/2.jpg"


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ("a", "b"):
        forms.amazon_csv(tmp_path / name / "raw")
        prepare(tmp_path / name / "raw", tmp_path / name / "out")
    files = sorted(path.name for path in (tmp_path / "a/out").iterdir())
    assert files == [
        *("i_id_mapping.csv", "inter.csv", "items.csv", "manifest.json", "u_id_mapping.csv")
    ]
    for file in files:
        assert (tmp_path / "a/out" / file).read_bytes() == (tmp_path / "b/out" / file).read_bytes()


def test_manifest(tmp_path):
    import hashlib

    forms.recbole(tmp_path / "raw")
    prepared = prepare(tmp_path / "raw", tmp_path / "out", Options(min_rating=2))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest == json.loads(json.dumps(prepared.manifest))
    assert manifest["form"] == "RecBole" and manifest["options"]["min_rating"] == 2
    digest = hashlib.sha256((tmp_path / "raw/toy.inter").read_bytes()).hexdigest()
    assert manifest["sources"][0]["sha256"] == digest
    assert [step["name"] for step in manifest["steps"]] == [
        *("read", "duplicates: first", "rating >= 2", "users >= 5, items >= 1")
    ]
    counts = [step["interactions"] for step in manifest["steps"]]
    assert counts[0] == len(forms.rows()) and counts[1] == counts[0] - 1


@pytest.mark.parametrize("name", CASE_INPUTS)
def test_the_shared_cases(name, tmp_path):
    if not CASES.is_dir():
        pytest.skip(f"no cases in {CASES}")
    columns = "user,item,rating,time" if name == "noheader" else ""
    prepared = prepare(CASES / name, tmp_path / "out", Options(columns=columns))
    assert prepared.steps[-1][1:] == (829, 60, 48)
    load_dataset("out", data_root=tmp_path)


def test_times_of_a_hundred_nanoseconds(tmp_path):
    """A blank last line or one decimal point changes no bit."""
    if not CASES.is_dir():
        pytest.skip(f"no cases in {CASES}")
    written = set()
    for name in ("ns", "ns_blank", "ns_decimal"):
        prepare(CASES / name, tmp_path / name)
        written.add((tmp_path / name / "inter.csv").read_bytes())
    assert len(written) == 1 and b"1500000000000075100" in written.pop()


def test_the_loader_gives_no_advice_that_was_followed(tmp_path):
    forms.recbole(tmp_path / "raw")
    advice = "fedvlr prepare --min_rating=R keeps the rows with at least R"
    for min_rating, told in ((None, advice), (2, "prepared with --min_rating=2")):
        prepare(tmp_path / "raw", tmp_path / "out", Options(min_rating=min_rating), overwrite=True)
        (note,) = (x for x in load_dataset("out", data_root=tmp_path).notes if "rating" in x)
        assert note.endswith(f"rating is not used, all interactions have equal weight; {told}")
    for manifest in (b"\xff", b"[1]", b"[" * 10**5, b'{"options": {"min_rating": "2"}}'):
        (tmp_path / "out/manifest.json").write_bytes(manifest)
        assert any(x.endswith(advice) for x in load_dataset("out", data_root=tmp_path).notes)


def test_nothing_half_written(tmp_path):
    forms.recbole(tmp_path / "raw")
    with pytest.raises(InputError, match="min_rating=9"):
        prepare(tmp_path / "raw", tmp_path / "data/out", Options(min_rating=9))
    assert list((tmp_path / "data").iterdir()) == []


def test_overwrite(tmp_path):
    forms.recbole(tmp_path / "raw")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("")
    with pytest.raises(InputError, match="exists"):
        prepare(tmp_path / "raw", tmp_path / "mine")
    with pytest.raises(InputError, match="prepare did not write it"):
        prepare(tmp_path / "raw", tmp_path / "mine", overwrite=True)
    prepare(tmp_path / "raw", tmp_path / "out")
    prepare(tmp_path / "raw", tmp_path / "out", Options(min_rating=2), overwrite=True)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["options"]["min_rating"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out", "raw"]


def test_overwrite_deletes_no_file_of_others(tmp_path):
    forms.put(
        tmp_path / "raw/toy.csv", "user,item,time\n" + "".join(f"u,{i},{i}\n" for i in range(6))
    )
    prepare(tmp_path / "raw", tmp_path / "out")
    features = forms.put(tmp_path / "out/text_features.npy", "rows of a model that took hours")
    with pytest.raises(InputError, match=r"would delete text_features\.npy, which prepare did not"):
        prepare(tmp_path / "raw", tmp_path / "out", overwrite=True)
    assert features.read_text().startswith("rows") and not list(tmp_path.glob(".out*"))
    features.unlink()
    prepare(tmp_path / "raw", tmp_path / "out", overwrite=True)


def test_overwrite_keeps_a_link(tmp_path):
    forms.recbole(tmp_path / "raw")
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk/toy")
    prepare(tmp_path / "raw", tmp_path / "out")
    prepare(tmp_path / "raw", tmp_path / "out", Options(min_rating=2), overwrite=True)
    assert (tmp_path / "out").is_symlink()
    manifest = json.loads((tmp_path / "disk/toy/manifest.json").read_text())
    assert manifest["options"]["min_rating"] == 2
    names = [path.name for path in (*tmp_path.iterdir(), *(tmp_path / "disk").iterdir())]
    assert sorted(names) == ["disk", "out", "raw", "toy"]


def test_a_name_that_is_not_utf_8_is_in_the_manifest(tmp_path):
    name = os.fsdecode(b"caf\xe9.csv")
    raw = forms.put(tmp_path / name, "user,item,time\nu,i,1\n")
    prepare(raw, tmp_path / "out", Options(min_user_interactions=1))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert manifest["sources"][0]["file"] == name


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    raw = forms.put(tmp_path / "toy.csv", "user,item,time\nu,i,1\n")

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"^\S*toy\.csv: cannot be read \(Permission denied\)$"):
        prepare(raw, tmp_path / "out")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"^\S*: cannot be read \(Permission denied\)$"):
        prepare(tmp_path, tmp_path / "out")


def test_a_name_that_is_too_long_is_named(tmp_path):
    raw = forms.put(tmp_path / "toy.csv", "user,item,time\nu,i,1\n")
    for source, output in ((tmp_path / ("x" * 300), "out"), (raw, "x" * 300)):
        with pytest.raises(InputError, match=r"cannot be (read|written) \(File name too long\)"):
            prepare(source, tmp_path / output)
