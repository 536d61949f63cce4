"""What finished runs say of their test targets, as this version and earlier ones wrote them."""

import csv
import json

import numpy as np
import pytest

from fedvlr_jax.commands.tables.comparison import Compared, compared_runs, gain, read_choice
from fedvlr_jax.commands.tables.comparison_table import (
    gain_cells,
    interval_cell,
    named_intervals,
)
from fedvlr_jax.commands.tables.tables import write_table
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.evaluation.baselines import baselines_of, rank, scores_of
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.report.folder import Table
from fedvlr_jax.training.summary import summarise_ranks


def interactions(rows, num_items):
    user = [u for u, row in enumerate(rows) for _ in row]
    item = [i for row in rows for i in row]
    return Interactions.from_pairs(user=user, item=item, num_users=len(rows), num_items=num_items)


@pytest.fixture
def dataset():
    """Users with one, three and no test targets."""
    return Dataset(
        name="toy",
        train=interactions([[0, 1], [0], [0, 2]], 6),
        valid=interactions([[2], [1], [1]], 6),
        test=interactions([[4], [2, 3, 5], []], 6),
        features={},
        user_ids=np.arange(3).astype(str),
        item_ids=np.arange(6).astype(str),
        split="predefined",
    )


def finished(folder, summary, users):
    directory = RunDirectory.create(folder, overwrite=False)
    directory.write_config({"flags": {}})
    directory.write_users(users)
    directory.write_summary({"selected_round": 1, **summary})
    return folder


def padded(counts, values):
    """[N, T] of one entry a target, as earlier versions wrote them."""
    table = np.zeros((len(counts), counts.max()), np.int32)
    table[np.arange(counts.max()) < counts[:, None]] = values
    return table


def test_runs_of_earlier_versions_compare_as_they_did(dataset, tmp_path):
    scorer = scores_of(baselines_of(dataset)["popularity"].prepare(dataset)(), dataset)
    ranks = {part: rank(scorer, dataset, part) for part in ("valid", "test")}
    summary, users = summarise_ranks(dataset, ranks, (10, 50))
    new = read_choice("x", [finished(tmp_path / "new", summary, users)], dataset)
    counts = np.diff(users.pop("target_indptr"))
    assert counts.tolist() == [1, 3, 0]
    earlier = users | {name: padded(counts, users[name]) for name in ("ahead", "tied")}
    old = read_choice("x", [finished(tmp_path / "old", summary, earlier)], dataset)
    np.testing.assert_array_equal(new.ndcg, old.ndcg)
    assert new.line == old.line
    # The judged targets are the warm ones: item 2 of user 1 is one, items 3, 4 and 5 are cold.
    assert np.isnan(new.ndcg).tolist() == [True, False, True]


def test_the_json_of_a_table_has_no_number_that_json_lacks(tmp_path):
    """One user, and a reference of 0: no detectable difference, an infinite relative gain."""
    one = Compared({"choice": "a"}, np.array([0.5]))
    none = Compared({"choice": "b"}, np.array([0.0]))
    line = {**one.line, **gain(one, none), "nested": {"by_seed": [1.0, np.nan]}}
    assert np.isinf(line["gain_relative"]) and np.isnan(line["detectable"])
    table = Table("title", ("choice",), [["a"]], "caption")
    write_table(table, [line], tmp_path / "table")

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "table.json").read_text()
    (found,) = json.loads(text, parse_constant=refuse)
    assert found["gain"] == 50.0
    assert found["gain_relative"] is None and found["detectable"] is None
    assert found["nested"]["by_seed"] == [1.0, None]
    with (tmp_path / "table.csv").open(newline="") as file:
        (cells,) = csv.DictReader(file)
    assert cells["gain"] == "50.0" and cells["gain_relative"] == cells["detectable"] == ""


def test_an_interval_of_no_user_is_an_empty_cell(tmp_path):
    """No user has a test target, or one has."""
    summary = {"valid": {"ndcg@50": 1.0}, "test": {"warm": {}, "cold": {}}}
    nobody = compared_runs("a", [summary], [np.array([np.nan, np.nan])], "all").line
    summary["test"] |= {"ndcg@50": 100.0}
    one = compared_runs("b", [summary], [np.array([np.nan, 1.0])], "all").line
    assert named_intervals([nobody, one]) == [("b", 100.0, [100.0, 100.0])]
    write_table(Table("t", ("choice",), [["a"], ["b"]], ""), [nobody, one], tmp_path / "table")
    assert json.loads((tmp_path / "table.json").read_text())[0]["ci95"] is None
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row["ci95"] for row in csv.DictReader(file)] == ["", "[100.0, 100.0]"]


def test_cells_have_no_number_that_is_unknown():
    nothing = {"p_value": 1.0, "p_mean": 1.0, "p_holm": 1.0}
    unknown = dict.fromkeys(("gain", "detectable", "gain_relative"), np.nan)
    assert gain_cells({}) == gain_cells(nothing | unknown) == ["-", "-"]
    one_user = nothing | {"gain": 2.5, "detectable": np.nan, "gain_relative": np.inf}
    assert gain_cells(one_user) == ["+2.50", "1 / 1 / 1"]
    known = nothing | {"gain": -2.5, "detectable": 1.0, "gain_relative": -12.0}
    assert gain_cells(known) == ["-2.50 ± 1.00 (-12%)", "1 / 1 / 1"]
    assert interval_cell({"ci95": None}) == "-"
    assert interval_cell({"ci95": [20.1, 24.3]}) == "20.10–24.30"
