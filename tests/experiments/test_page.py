"""The page of a folder of runs, the printed tables, and the model that a sweep keeps."""

import contextlib
import io
import json
import re
import shutil
import types

import numpy as np
import pytest

from fedvlr_jax.commands import members, sweep, table2
from fedvlr_jax.commands import page as page_command
from fedvlr_jax.commands.members import keep_best_model, make_members, train_waiting
from fedvlr_jax.commands.tables.comparison_table import write_comparison
from fedvlr_jax.commands.tables.page import Found, find_runs, folder_page, groups_of
from fedvlr_jax.commands.tables.tables import print_table
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines import evaluate_once
from fedvlr_jax.evaluation.significance import holm
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.report.folder import (
    Group,
    Table,
    beside_baselines,
    best_groups,
    render_folder,
    sentence,
)

pytestmark = pytest.mark.usefixtures("undrawn")


def make_run(folder, valid, *, finished=True, dataset=None, **flags):
    run = RunDirectory.create(folder, overwrite=False)
    flat = Config.from_flat(**flags).flat
    run.write_config({"flags": flat, "dataset": {"name": "toy", **(dataset or {})}})
    curve = [{"round": r, "valid": {"ndcg@50": valid * r / 4}} for r in (0, 2, 4)]
    run.write_metrics(curve)
    if finished:
        done = {"valid": {"ndcg@50": valid}, "selected_round": 4, "rounds_run": 4}
        run.write_summary(done)
        run.write_report("<p>report</p>")


@pytest.fixture
def folder(tmp_path):
    make_run(tmp_path / "fusion=none/seed0", 10.0)
    make_run(tmp_path / "fusion=none/seed1", 12.0)
    make_run(tmp_path / "fusion=mlp/seed0", 20.0, fusion="mlp", client_lr=0.5)
    make_run(tmp_path / "trial0003", 5.0, finished=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{")
    return tmp_path


def test_groups_are_choices_and_a_broken_member_is_named(folder):
    runs = find_runs(folder)
    (groups, label), unread = groups_of(folder, runs), runs.unread
    found = {group.label: group for group in groups}
    assert set(found) == {"fusion=none", "fusion=mlp", "trial0003"}
    assert found["fusion=none"].mean == 11.0 and found["fusion=none"].rounds == 8
    assert found["trial0003"].mean is None and found["trial0003"].rounds == 4
    assert found["trial0003"].runs[0].state == "not finished"
    assert found["fusion=none"].curves[1] == [(0, 0.0), (2, 6.0), (4, 12.0)]
    assert len(unread) == 1 and "other/config.json: damaged" in unread[0]
    assert label == "NDCG@50"
    command = found["fusion=mlp"].command.replace("\\\n ", "")
    assert "--fusion=mlp" in command and "--client_lr=0.5" in command
    assert f"--workdir={folder}-best" in command


LINES = [
    {"choice": "fusion=none"},
    {"choice": "fusion=mlp", "gain": 1.5, "against": "fusion=none", "detectable": 1.0}
    | {"p_value": 0.01, "p_mean": 0.02, "p_holm": 0.04},
]


def test_the_page_has_curves_differences_budgets_and_the_winner(folder):
    runs = find_runs(folder)
    (groups, label), unread = groups_of(folder, runs), runs.unread
    table = Table("<b>title", ("choice", "x"), [("fusion=none", "1")], "caption")
    page = render_folder(table, LINES, groups, label=label, unread=unread, files=["sweep.md"])
    assert "<b>title" not in page and "&lt;b&gt;title" in page
    assert "fusion=mlp has the best validation NDCG@50 of 3 choices: 20.00 %" in page
    assert "correction at 5 %: 1 of 1" in page
    assert '<td class="number">+1.50</td>' in page and "<strong>0.04</strong>" in page
    assert page.count("<svg") == 1 and "toy: validation NDCG@50" in page
    links = set(re.findall(r'href="([^"#]+)"', page))
    seeds = {"fusion%3Dnone/seed0/report.html", "fusion%3Dnone/seed1/report.html"}
    assert seeds <= links and "sweep.md" in links
    assert "<script" not in page


def test_choices_with_one_best_value_are_all_named(tmp_path):
    """The printed table marks the first of its lines as the best; so does the page."""
    for name in ("a", "b", "c"):
        make_run(tmp_path / name / "seed0", 1.0)
    lines = [{"choice": choice} for choice in ("b", "a")]
    table = Table("title", ("choice",), [("b",), ("a",)], "caption")
    page = folder_page(tmp_path, table, lines)
    assert "b and 2 others have the same best validation NDCG@50 of 3 choices: 1.00 %" in page
    assert '<th scope="row">b *</th>' in page and page.count(" *</th>") == 1
    assert page.index("<h2>Results</h2>") < page.index("<h2>Runs and budgets</h2>")
    groups, label = groups_of(tmp_path, find_runs(tmp_path))
    assert "a and b have the same best" in sentence(groups[:2], [], label)


def test_a_table_in_which_validation_chooses_nothing_says_so(folder):
    """The command says it, whatever the names of the columns."""
    lines = [{"attack": "alie", "er@10": 0.5}]
    table = Table("title", ("attack",), [("alie",)], "caption", chosen=False)
    page = folder_page(folder, table, lines)
    assert "Validation chooses nothing in this table." in page
    chosen = folder_page(folder, table._replace(chosen=True), lines)
    for words in ("best validation", "Validation chooses. ", " *</th>", "of the other choices"):
        assert words in chosen and words not in page
    assert "<summary>Commands</summary>" in page and page.count("fedvlr train") == 3


def test_the_page_leaves_out_differences_that_nobody_measured(folder):
    runs = find_runs(folder)
    groups, label = groups_of(folder, runs)
    table = Table("title", ("choice", "x"), [("fusion=none", "1")], "caption")
    nobody = LINES[1] | {"gain": float("nan"), "detectable": float("nan")}
    one_user = LINES[1] | {"detectable": float("nan")}
    lines = [LINES[0], nobody, one_user]
    page = render_folder(table, lines, groups, label=label)
    assert "correction at 5 %: 1 of 1" in page and "nan" not in page
    assert '<td class="number">–</td>' in page


def page_of(monkeypatch, folder):
    values = types.SimpleNamespace(workdir=str(folder))
    monkeypatch.setattr(page_command, "FLAGS", values)
    page_command.main()


def _page_of_broken_runs(monkeypatch, folder, lines):
    """The page has the tests of the sweep, which wrote `lines`, and names what is broken."""
    for name, broken in (("cut", "summary.json"), ("lost", "metrics.jsonl"), ("part", "users.npz")):
        shutil.copytree(folder / "client_lr=0.1/seed0", folder / name)
        (folder / name / broken).write_text("{")
    (folder / "lost/metrics.jsonl").unlink()
    (folder / "kept/checkpoints/round_00000004").mkdir(parents=True)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        page_of(monkeypatch, folder)
    left_out = [line for line in printed.getvalue().splitlines() if "left out: " in line]
    assert [line.split(f"{folder}/")[1].split(": ")[0] for line in left_out] == [
        *("cut/summary.json", "kept", "lost/metrics.jsonl", "part/users.npz")
    ]
    found = {line["choice"]: line for line in json.loads((folder / "page.json").read_text())}
    assert set(found) == {line["choice"].replace(" ", "-") for line in lines}
    for line in lines:
        again = found[line["choice"].replace(" ", "-")]
        assert again["valid"] == line["valid"] and again["seeds"] == line["seeds"]
    # The sweep is compared with its first choice, the page with the first by name.
    (gain,) = (line["gain"] for line in lines if "gain" in line)
    (other,) = (line["gain"] for line in found.values() if "gain" in line)
    assert other == pytest.approx(-gain, abs=1e-5)
    html = (folder / "index.html").read_text()
    assert html.count("Not read:") == 3 and "lost/metrics.jsonl: missing" in html
    for name in ("cut", "lost", "part", "kept"):
        shutil.rmtree(folder / name)


@pytest.mark.parametrize("found", ["nothing", "a file", "an empty folder", "other things"])
def test_a_page_of_no_runs_is_one_line(found, monkeypatch, tmp_path):
    folder = tmp_path / "w"
    if found == "a file":
        folder.write_text("")
    elif found != "nothing":
        folder.mkdir()
    if found == "other things":
        (folder / "model").mkdir()
        (folder / "model/config.json").write_text('{"x": 1}')
        (folder / "notes.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="give a folder of runs") as error:
        page_of(monkeypatch, folder)
    assert error.value.line.startswith(f"--workdir={folder}: ") and "\n" not in error.value.line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_of_one_run_names_its_report(monkeypatch, tmp_path):
    make_run(tmp_path / "w", 1.0)
    with pytest.raises(InputError, match=r"it is one run, with .*w/report\.html; give a folder"):
        page_of(monkeypatch, tmp_path / "w")


def test_an_ablation_names_its_method():
    lines = [{"choice": "the method"}, {**LINES[1], "choice": "control", "against": "control"}]
    page = render_folder(Table("t", ("c",), [], ""), lines, [], label="NDCG@50")
    assert '<th scope="row">the method</th>' in page and "<strong>control</strong>" in page
    assert "No run of this folder has finished." in page


def test_many_choices_are_not_all_drawn():
    groups = [Group(f"c{n}", "d", [], [[(0, 1.0)]], [float(n)], [0], 1, "") for n in range(11)]
    page = render_folder(Table("t", ("c",), [], ""), [], groups, label="NDCG@50")
    assert "the best 8 of 11" in page


def test_printed_tables_fit_80_columns(capsys):
    headings = ("choice", *(f"metric number {n}" for n in range(9)))
    rows = [(f"a choice with a name that is rather long {n}", *["1.23 ± 0.45"] * 9) for n in (1, 2)]
    print_table(Table("title", headings, rows, "caption " * 30))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert all(f"metric number {n}" in printed for n in range(9))
    assert printed.count("1.23 ± 0.45") == 18


def test_every_part_of_a_broken_table_names_its_rows(capsys):
    headings = ("claim", "control", *(f"metric number {n}" for n in range(6)))
    rows = [("content", f"control {n}", *["1.23 ± 0.45"] * 6) for n in (1, 2)]
    print_table(Table("title", headings, rows, ""))
    printed = capsys.readouterr().out
    parts = printed.count("claim")
    assert parts > 1 and max(map(len, printed.splitlines())) <= 80
    assert printed.count("control 1") == printed.count("control 2") == parts
    print_table(Table("title", headings, [("a", *rows[0][1:]), ("b", *rows[1][1:])], ""))
    assert capsys.readouterr().out.count("control 1") == 1


def test_a_sweep_keeps_the_model_of_its_best_run(monkeypatch, tmp_path):
    values = dict(members_at_once=1, keep_best_model=True, seeds="0,1")
    monkeypatch.setattr(members.training, "FLAGS", types.SimpleNamespace(**values))
    monkeypatch.setattr(sweep, "FLAGS", types.SimpleNamespace(**values))
    small = dict(synthetic_users=40, synthetic_items=60, width=8, rounds=2, eval_every=2)
    base = Config.from_flat(
        **small, init="random", workdir=str(tmp_path / "w"), baselines=False, fusion="none"
    )
    found = make_members(base, ["client_lr=1,0.1"], [0, 1])
    datasets = train_waiting(found, keep=True)
    sweep._compare(base, found, datasets[base.data], evaluate_once())
    lines = json.loads((tmp_path / "w/sweep.json").read_text())
    (chosen,) = (line["choice"] for line in lines if line.get("chosen"))
    (kept,) = (tmp_path / "w").glob("*/seed*/checkpoints")
    assert kept.parent.parent.name == chosen.replace(" ", "-")
    assert any(kept.iterdir())
    summaries = {
        p: json.loads(p.read_text())["valid"] for p in kept.parent.parent.glob("*/s*.json")
    }
    best = max(summaries, key=lambda path: summaries[path]["ndcg@50"])
    assert best.parent == kept.parent
    _page_of_broken_runs(monkeypatch, tmp_path / "w", lines)
    others = [m.directory for m in found if m.directory != kept.parent]
    assert "without --keep_best_model" in keep_best_model(others[:1], others)


def test_the_page_says_how_the_choice_stands_and_whether_users_differ(folder):
    groups, label = groups_of(folder, find_runs(folder))
    chosen = {"choice": "fusion=mlp", "chosen": True, "slice": "warm", "warm_ndcg@50": 11.26}
    baseline = {"choice": "ease", "slice": "warm", "warm_ndcg@50": 9.04, "valid": 9.0}
    baseline |= {"baseline_of": {"title": "EASE", "trained": "centralized"}, "against": "other"}
    worse = {**baseline, "valid": 8.0, "baseline_of": {"title": "iALS", "trained": "centralized"}}
    (found,) = beside_baselines([chosen, worse, baseline])
    assert found == (
        "fusion=mlp has 11.3 % test warm NDCG@50, and EASE, the best baseline on validation "
        "(centralized), has 9.0 %: not tested against each other here."
    )
    tested = {**baseline, "against": "fusion=mlp", "p_holm": 0.0123}
    assert beside_baselines([chosen, tested])[0].endswith("p = 0.012 after Holm's correction.")
    assert beside_baselines([chosen]) == [] == beside_baselines([])
    groups = [group._replace(differ=f"spread of {group.label}") for group in groups]
    lines = [*LINES[:1], chosen | LINES[1], tested]
    page = render_folder(Table("t", ("c",), [], ""), lines, groups, label=label)
    assert "fusion=mlp has 11.3 %" in page
    assert "fusion=mlp: spread of fusion=mlp" in page and "spread of fusion=none" not in page
    assert (
        "remain after Holm&#39;s correction at 5 %: 1 of 1 (1 above and 0 below fusion=none)."
        in page
    )


def data_of(folder):
    return find_runs(folder).data


@pytest.mark.parametrize(
    "damage",
    [
        {"valid": {"ndcg@50": "x"}},
        {"valid": {"ndcg@50": 1.0, "cold": None}},
        {"test": None},
        {"test": {"warm": {"hr@50": None}, "cold": {}}},
        {"selected_round": None},
    ],
)
def test_a_summary_of_another_form_is_named(damage, tmp_path):
    make_run(tmp_path / "a", 1.0)
    path = tmp_path / "a/summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    (unread,) = find_runs(tmp_path).unread
    assert unread == f"{path}: not the summary of a run"


def test_a_run_without_test_results_is_left_out_of_the_table(tmp_path):
    make_run(tmp_path / "a", 1.0)
    found, (line,) = page_command.with_users(find_runs(tmp_path).by_choice)
    assert not found and line.endswith("summary.json: lacks the slices of the test part")


def test_only_runs_that_are_comparable_are_compared(tmp_path):
    """Another protocol or metric has other numbers; permuted features have the same users."""
    features = {"fingerprint": "f" * 64}
    make_run(tmp_path / "a", 1.0, dataset=features)
    make_run(tmp_path / "b", 2.0, dataset={"fingerprint": "0" * 64}, permute_features=1)
    assert set(data_of(tmp_path).values()) == {"toy"}
    make_run(tmp_path / "c", 3.0, dataset=features, protocol="paper")
    make_run(tmp_path / "d", 40.0, dataset=features, select="hr@50")
    rule = "toy, protocol {}, select {}"
    assert data_of(tmp_path) == {
        "a": rule.format("strict", "auto"),
        "b": rule.format("strict", "auto"),
        "c": rule.format("paper", "auto"),
        "d": rule.format("strict", "hr@50"),
    }
    groups, _ = groups_of(tmp_path, find_runs(tmp_path))
    assert {group.label for group in best_groups(groups)} == {"b", "c", "d"}


@pytest.mark.parametrize(
    ("rules", "label"),
    [
        (["warm_ndcg@50", "warm_ndcg@50"], "NDCG@50 of the warm targets"),
        (["warm_ndcg@50", "all_ndcg@50"], "NDCG@50"),
        (["all_hr@50", "all_ndcg@50"], "value of --select"),
    ],
)
def test_the_label_holds_for_all_runs(rules, label, tmp_path):
    for name, rule in enumerate(rules):
        make_run(tmp_path / str(name), 1.0)
        path = tmp_path / str(name) / "summary.json"
        summary = json.loads(path.read_text())
        parts = {"hr@50": 1.0, "ndcg@50": 1.0}
        summary |= {"select": rule, "valid": {**parts, "warm": parts}}
        path.write_text(json.dumps(summary))
    assert groups_of(tmp_path, find_runs(tmp_path))[1] == label


def test_data_that_changed_are_other_data(tmp_path):
    for name in "ab":
        make_run(tmp_path / name, 1.0, dataset={"fingerprint": name * 64})
    assert data_of(tmp_path) == {n: f"toy, fingerprint {n * 12}" for n in "ab"}


def test_seeds_that_differ_in_more_are_choices_of_their_own(tmp_path):
    make_run(tmp_path / "x/seed0", 1.0)
    make_run(tmp_path / "x/seed1", 2.0, seed=1, workdir="elsewhere", checkpoint_every=7)
    make_run(tmp_path / "x/seed2", 9.0, seed=2, client_lr=0.5)
    make_run(tmp_path / "x/seed3", 9.0, seed=3, rounds=7)
    for seed in (0, 1):
        data = {"fingerprint": f"{seed}" * 64}
        make_run(tmp_path / f"permuted/seed{seed}", 1.0, dataset=data, permute_features=1 + seed)
        make_run(tmp_path / f"changed/seed{seed}", 1.0, dataset=data)
    found = {choice: len(runs) for choice, runs in find_runs(tmp_path).by_choice.items()}
    assert found == {
        "x": 2,
        "x/seed2": 1,
        "x/seed3": 1,
        "permuted": 2,
        "changed": 1,
        "changed/seed1": 1,
    }


def finished(path, gains, baselines=()):
    """A finished run of four users, as `page.table_of` takes it."""
    entry = {"ndcg@50": 1.0, "warm": {}, "cold": {}}
    told = {"title": "Toy", "trained": "client", "content": False, "settings_tried": 1}
    summary = {"valid": entry, "test": entry, "select": "all_ndcg@50"}
    summary["baselines"] = {name: {**entry, **told, "valid": entry} for name in baselines}
    users = {"ahead": np.arange(4), "tied": np.zeros(4), "judged: ndcg@50": np.array(gains)}
    users |= {f"{name}: ndcg@50": np.zeros(4) for name in baselines}
    return page_command.Finished(Found(path, {"flags": {}}, summary, []), users)


def test_baselines_come_from_any_run_and_each_line_names_its_data(tmp_path, capsys):
    runs = {
        "KU/a": [finished(tmp_path, [0.1, 0.2, 0.3, 0.4])],
        "KU/b": [finished(tmp_path, [0.2, 0.2, 0.4, 0.4], ["ease"])],
        "ML/a": [finished(tmp_path, [0.1, 0.2, 0.3, 0.4])],
    }
    lines = page_command.table_of(runs, {name: name[:2] for name in runs})
    assert [line["choice"] for line in lines] == ["KU/a", "KU/b", "ease", "ML/a"]
    assert ["against" in line for line in lines] == [False, True, True, False]
    write_comparison(lines, tmp_path / "page", "title", runs)
    cells = [line.split(" | ")[0] for line in (tmp_path / "page.md").read_text().splitlines()]
    assert "| KU: Toy [client]" in cells and "| ML: ML/a *" in cells
    assert "page.md" in capsys.readouterr().out


def test_holm_corrects_over_the_data_sets_of_a_table(tmp_path):
    runs = {
        f"{data}/{name}": [finished(tmp_path, [0.1, 0.2, 0.3, gain])]
        for data in ("KU", "ML")
        for name, gain in (("a", 0.4), ("b", 0.5), ("c", 0.45))
    }
    lines = page_command.table_of(runs, {name: name[:2] for name in runs})
    tested = [line for line in lines if "gain" in line]
    assert len(tested) == 4
    assert [line["p_holm"] for line in tested] == holm([line["p_mean"] for line in tested])
    # In table2 a line has two gains.
    gains = [{"p_mean": 0.01 * n} for n in range(1, 5)]
    lines = [
        {"dataset": data, "vanilla": gains[2 * n], "baseline": gains[2 * n + 1]}
        for n, data in enumerate(("KU", "ML"))
    ]
    assert table2.gains_of([{"dataset": "KU"}, *lines]) == gains


def test_members_are_chosen_by_one_metric():
    with pytest.raises(InputError, match="over=select=ndcg@50,hr@50: one validation metric"):
        members.parse_over("select=ndcg@50,hr@50")


@pytest.mark.parametrize("judged", ["all", "warm"])
def test_columns_of_warm_targets_only_beside_cold_ones(judged, tmp_path):
    line = {"choice": "a", "seeds": 1, "valid": 1.0, "select": "all_ndcg@50", "ci95": [1, 2]}
    write_comparison([line | {"slice": judged}], tmp_path / "sweep", "title")
    assert ("warm HR@50" in (tmp_path / "sweep.md").read_text()) == (judged == "warm")
    heading, _, row = (tmp_path / "sweep.md").read_text().splitlines()[2:5]
    assert heading.count("|") == row.count("|")


def test_choices_have_one_name_on_the_page(tmp_path):
    make_run(tmp_path / "dataset=a_b-fusion=mlp/seed0", 10.0)
    page = folder_page(tmp_path, Table("t", ("c",), [], ""), [{"choice": "dataset=a/b fusion=mlp"}])
    assert "dataset=a/b fusion=mlp, the only choice, has a validation" in page
    assert "dataset=a_b-fusion=mlp" not in page
