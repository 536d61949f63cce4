"""The results table: who stands where, over which targets, with what certainty."""

import io

import pytest
from rich.console import Console

from fedvlr_jax.report import results
from fedvlr_jax.report.tables import best_values, columns, cutoff_table, print_summary


def printed(summary: dict, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(summary, console)
    return console.file.getvalue()


def without_cold(summary: dict) -> dict:
    for test in (summary["test"], *summary["baselines"].values()):
        if "warm" in test:
            test["warm"] = {k: test[k] for k in ("users", "hr@50", "ndcg@50", "ci95")}
            test["cold"] = {"users": 0}
    return summary


def test_rows_are_sorted_by_warm_ndcg_where_targets_are_cold(run):
    order = [row.name for row in results.methods(run["summary"])]
    assert order[:4] == ["EASE", "item-kNN", "fcf + bilevel", "content-kNN text"]
    assert order[-2:] == ["unseen items first", "least popular first"]
    assert "local-only" not in order


def test_rows_are_sorted_by_all_targets_where_none_is_cold(run):
    order = [row.name for row in results.methods(without_cold(run["summary"]))]
    assert order[:4] == ["EASE", "item-kNN", "fcf + bilevel", "unseen items first"]


def words(summary: dict) -> list[list[str]]:
    """The words of each printed line."""
    return [line.split() for line in printed(summary, 200).splitlines() if line.strip()]


def test_the_table_holds_values_intervals_and_a_caption(run):
    lines = words(run["summary"])
    assert lines[1:3] == [
        ["all", "all", "warm", "warm", "cold", "cold"],
        ["method", *(["HR@50", "NDCG@50"] * 3)],
    ]
    assert lines[4][:3] == ["EASE", "49.9", "20.2"]
    assert lines[5][:3] == ["l2=10", "43.0–56.8", "16.8–23.6"]
    text = " ".join(printed(run["summary"]).split())
    assert "204 users, 116 with warm targets, 88 with cold targets; protocol paper, seed 0" in text
    assert "Not run: local-only (fusion=none has nothing to train locally)." in text


def test_the_best_value_of_a_column_may_be_a_baselines(run):
    best = best_values(results.methods(run["summary"]), columns(run["summary"]))
    assert round(best["all", "hr@50"], 1) == 49.9 and round(best["all", "ndcg@50"], 1) == 20.2


def test_a_slice_without_users_has_no_column(run):
    summary = without_cold(run["summary"])
    assert words(summary)[1:3] == [["all", "all"], ["method", "HR@50", "NDCG@50"]]
    assert "No target is cold." in printed(summary)


def test_a_data_set_of_cold_targets_alone(run):
    run["summary"]["test"]["warm"] = {"users": 0}
    assert results.judged_slice(run["summary"]) == "all"
    assert results.shown_slices(run["summary"]) == ("all", "cold")
    assert words(run["summary"])[1] == ["all", "all", "cold", "cold"]


def test_the_terminal_table_fits_80_columns_and_cuts_no_number(run):
    text = printed(run["summary"])
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    for number in ("74.1", "66.1–82.1", "99.8–100.2", "l2=10"):
        assert number in text


def test_no_baselines_and_no_intervals(run):
    summary = run["summary"]
    summary["baselines"] = None
    for part in (summary["test"], summary["test"]["warm"], summary["test"]["cold"]):
        del part["ci95"]
    assert ["fcf", "+", "bilevel", "46.4", "17.1"] in [line[:5] for line in words(summary)]


def test_names_are_text_and_no_markup(run):
    summary = run["summary"] | {"dataset": "[red]KU[/red]"}
    summary["baselines"]["a|b <i> [bold]x[/]"] = summary["baselines"].pop("EASE")
    assert "[red]KU[/red]" in printed(summary, 120)
    assert "[bold]x[/]" in printed(summary, 120)


def test_without_fusion_the_model_is_the_backbone(run):
    assert results.model_name(run["summary"] | {"fusion": "none"}) == "fcf"


def test_an_empty_summary_is_a_table_of_dashes():
    assert ["model", "–", "–"] in words({})


def test_every_cutoff_has_a_column_on_the_judged_slice(run):
    summary = run["summary"]
    assert cutoff_table(summary)[0] == ["method", "HR@50", "NDCG@50"]
    summary["test"]["warm"] |= {"hr@10": 31.26, "ndcg@10": 12.34}
    headings, rows = cutoff_table(summary)
    assert headings == ["method", "HR@10", "NDCG@10", "HR@50", "NDCG@50"]
    model = next(row for row in rows if row[0] == "fcf + bilevel")
    assert model[1:3] == ["31.3", "12.3"]
    assert next(row for row in rows if row[0] == "EASE")[1:3] == ["–", "–"]
    assert "31.3" in printed(summary) and max(map(len, printed(summary).splitlines())) <= 80


def test_a_baseline_has_its_full_name_and_its_kind(run):
    baselines = run["summary"]["baselines"]
    baselines["EASE"] |= {
        "title": "EASE (linear autoencoder)",
        "trained": "centralized",
        "content": True,
        "settings_tried": 9,
        "select": "warm_ndcg@50",
    }
    row = results.methods(run["summary"])[0]
    assert row.name == "EASE (linear autoencoder)"
    assert row.options == "l2=10, centralized, content-aware"


@pytest.mark.parametrize(("users", "shown"), [(9, ("all", "warm")), (10, ("all", "warm", "cold"))])
def test_a_few_users_with_cold_targets_have_no_column(users, shown, run):
    run["summary"]["test"]["cold"]["users"] = users
    assert results.judged_slice(run["summary"]) == "warm"
    assert results.shown_slices(run["summary"]) == shown
    assert results.shows_cold(run["summary"]) == (users == 10)


@pytest.mark.parametrize(
    ("users", "joined"),
    [
        (
            {"0-10": 30, "11-20": 4, "21-50": 7, "51-100": 0, "101-200": 12, "501+": 3},
            {"0-10": ["0-10"], "11-50": ["11-20", "21-50"], "101+": ["101-200", "501+"]},
        ),
        ({"0-10": 2, "11-20": 1}, {"0-20": ["0-10", "11-20"]}),
        ({"0-10": 0}, {}),
    ],
)
def test_groups_are_joined_until_each_has_ten_users(users, joined):
    assert results.merged_groups(users) == joined
