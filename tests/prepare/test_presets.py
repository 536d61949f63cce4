"""The data sets of the paper, prepared from raw forms of the real data if these are available."""

import csv
import json

import pytest

from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare import PRESETS, prepare_preset
from tests.prepare.forms import put

# The paper's Table 1.
TABLE_1 = {
    "amazon-beauty": (253, 356, 2535),
    "amazon-cards": (377, 129, 2429),
    "movielens-small": (610, 3650, 90274),
    "ninerec-ku": (204, 560, 3488),
    "ninerec-dance": (10231, 1676, 80086),
    "ninerec-food": (5990, 1125, 36482),
    "ninerec-movie": (15908, 2528, 111091),
}


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def raw(folder, name):
    """[(original user, original item, rating, time)] of a data set in the project's layout."""
    users = {row["userID"]: row["user_id"] for row in read(folder / "u_id_mapping.csv")}
    items = {row["itemID"]: row["asin"] for row in read(folder / "i_id_mapping.csv")}
    return [
        (users[row["userID"]], items[row["itemID"]], row["rating"], row["timestamp"])
        for row in read(folder / name)
    ]


def test_presets_are_the_papers():
    assert {name: preset.expected for name, preset in PRESETS.items()} == TABLE_1
    assert all(preset.licence and preset.unknown and preset.source for preset in PRESETS.values())


@pytest.mark.parametrize(
    ("preset", "name", "file", "header"),
    [
        ("amazon-beauty", "Beauty", "All_Beauty.csv", "user_id,parent_asin,rating,timestamp\n"),
        ("movielens-small", "ML", "ratings.csv", "userId,movieId,rating,timestamp\n"),
    ],
)
def test_a_preset(preset, name, file, header, data_root, tmp_path):
    rows = raw(data_root / name, "inter.csv")
    lines = [",".join(row) + "\n" for row in rows]
    # A user with too few interactions, and a later repeat of a pair: `prepare` drops both.
    lines += ["newcomer," + ",".join(rows[0][1:]) + "\n"]
    lines += [",".join((*rows[0][:3], "9999999999999")) + "\n"]
    put(tmp_path / "raw" / file, header + "".join(lines))
    prepared = prepare_preset(preset, tmp_path / "raw", tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["preset"] == preset and manifest["paper"]["asserted"]
    assert manifest["steps"][0]["interactions"] == len(rows) + 2
    last = prepared.steps[-1]
    assert (last.users, last.items, last.interactions) == TABLE_1[preset]


def test_the_recipe_of_the_released_ku(data_root, tmp_path):
    """MMRec's recipe on the distinct rows of KU gives the released file, including its repeats."""
    rows = raw(data_root / "KU", "inter.csv")
    distinct = list(dict.fromkeys(rows))
    assert len(rows) == 3489 and len(distinct) == 3484
    lines = [f"{item},{user},{time}\n" for user, item, _, time in distinct]
    items = dict.fromkeys(f"{item},标题,a title\n" for _, item, _, _ in distinct)
    put(tmp_path / "raw/KU_pair.csv", "".join(lines))
    put(tmp_path / "raw/KU_item.csv", "".join(items))
    with pytest.raises(InputError, match=r"3,484 interactions, expected the paper's .* any_counts"):
        prepare_preset(
            "ninerec-ku", tmp_path / "raw", tmp_path / "out", changes={"columns": "item,user,time"}
        )
    prepare_preset(
        "ninerec-ku",
        tmp_path / "raw",
        tmp_path / "out",
        changes={"recipe": "mmrec", "split": "leave-one-out", "columns": "item,user,time"},
        any_counts=True,
    )
    users = {row["userID"]: row["user_id"] for row in read(tmp_path / "out/u_id_mapping.csv")}
    items = {row["itemID"]: row["item_id"] for row in read(tmp_path / "out/i_id_mapping.csv")}
    again = [
        (users[row["userID"]], items[row["itemID"]], row["timestamp"], row["split_label"])
        for row in read(tmp_path / "out/inter.csv")
    ]
    labels = [row["split_label"] for row in read(data_root / "KU/inter.csv")]
    released = [(u, i, t, label) for (u, i, _, t), label in zip(rows, labels, strict=True)]
    assert sorted(again) == sorted(released)


def test_a_preset_without_its_files(tmp_path):
    put(tmp_path / "raw/other.csv", "user,item\n")
    with pytest.raises(InputError, match=r"reads Amazon Reviews 2023, .*found other\.csv"):
        prepare_preset("amazon-cards", tmp_path / "raw", tmp_path / "out")
    with pytest.raises(InputError, match="preset=x: not known"):
        prepare_preset("x", tmp_path / "raw", tmp_path / "out")


def test_counts_that_are_not_the_papers(tmp_path):
    rows = "".join(f"u{u},i{i},5.0,{u + i}\n" for u in range(5) for i in range(5))
    put(tmp_path / "raw/Gift_Cards.csv", "user_id,parent_asin,rating,timestamp\n" + rows)
    with pytest.raises(InputError, match=r"5 users, 5 items and 25 interactions, expected .* 377"):
        prepare_preset("amazon-cards", tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepared = prepare_preset("amazon-cards", tmp_path / "raw", tmp_path / "out", any_counts=True)
    assert prepared.manifest["paper"] == {
        "name": "Cards",
        "users": 377,
        "items": 129,
        "interactions": 2429,
        "asserted": False,
    }
