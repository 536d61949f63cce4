"""The page: complete, self-contained, and safe whatever the data set calls itself."""

import html.parser
import re
import subprocess
import sys

import numpy as np
import pytest

from fedvlr_jax.report import render_report

HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}"


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def assert_self_contained(text: str):
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not re.search(r"https?://|@import|javascript:|//\w+\.\w", text)
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        if name in ("href", "xlink:href", "src"):
            assert value.startswith("#"), value
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", text))


def test_the_page_needs_nothing_else(report):
    assert_self_contained(report)
    assert len(report) < 600_000
    page = Page(report)
    assert page.tags.count("svg") == 2 + 3 + 2 + 2 + 3
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_it_says_what_was_measured_and_how_to_do_it_again(report):
    page = Page(report)
    for text in (
        "KU · fcf + bilevel",
        "Mean over 204 test users; protocol paper: full ranking of 560 items",
        "No clear difference from EASE, the best baseline, on warm NDCG@50",
        "it is judged on its warm targets",
        "Test users: 204; with a cold target",
        "local-only (fusion=none has nothing to train locally)",
        "python -m experiments.train --dataset=KU --rounds=200 --protocol=paper",
        "16 of 560 items never occur in train.",
        "3f9a0c51d2e84b77",
        "12.8 ms",
        "812 MB",
        "Spearman 0.81",
        "0.10.2",
    ):
        assert text in page.text


def test_flags_that_differ_from_their_default_are_marked(report):
    changed = re.findall(r'<tr class="changed"><th scope="row">(\w+)</th>', report)
    assert changed == ["dataset", "rounds", "protocol"]
    assert '200<span class="default"> default 100</span>' in report


def test_the_model_is_highlighted_and_the_best_values_are_bold(report):
    assert re.findall(r'<tr class="model">\s*<th scope="row">([^<]*)', report) == ["fcf + bilevel"]
    assert re.findall(r'<span class="best">([^<]*)', report) == [
        "49.9",
        "20.2",
        "74.1",
        "33.5",
        "100.0",
        "37.5",
    ]


def test_hostile_names_stay_text(run):
    run["summary"] |= {"dataset": HOSTILE, "protocol": HOSTILE, "fusion": HOSTILE}
    run["summary"]["baselines"] |= {HOSTILE: run["summary"]["test"], "x": {"skipped": HOSTILE}}
    run["summary"]["views"] = ["id", HOSTILE, "image"]
    data = run["config"]["dataset"]
    data |= {"name": HOSTILE, "notes": [HOSTILE], "features": {HOSTILE: 3}, "split": HOSTILE}
    run["config"] |= {"command": HOSTILE, "versions": {HOSTILE: HOSTILE}, "device": HOSTILE}
    run["config"]["groups"] = {HOSTILE: {HOSTILE: HOSTILE}}
    text = render_report(**run)
    assert "<script" not in text
    assert "{{ 7*7 }}" in text
    assert_self_contained(text)


def test_the_same_run_gives_the_same_page(run, report):
    assert render_report(**run) == report


def test_no_router_no_router_section(run):
    run["summary"] |= {"fusion": "none", "views": ["id"], "router": None, "planted_spearman": None}
    del run["users"]["router_weights"], run["users"]["planted"]
    text = render_report(**run)
    assert "routers" not in text
    assert Page(text).tags.count("svg") == 2 + 3 + 2


def test_equal_weights_lead_nowhere(run):
    """Clients 0 to 50 weigh text most, the other 153 of 204 nothing."""
    weights = np.full((204, 3), 1 / 3, np.float32)
    weights[:51] = 0.3, 0.4, 0.3
    run["users"]["router_weights"] = weights
    shares = re.findall(r">(\d+ %)</td></tr>", render_report(**run))
    assert shares[:3] == ["0 %", "25 %", "0 %"]


def test_the_table_of_cutoffs_says_its_targets_and_unit(run):
    for part in run["summary"]["test"], run["summary"]["test"]["warm"]:
        part |= {"hr@10": 1.0, "ndcg@10": 1.0}
    assert "Every cut-off, warm targets, percent" in Page(render_report(**run)).text


def test_the_curve_marks_the_slice_that_selects(run):
    run["summary"]["select"] = "warm_ndcg@50"
    assert "25.8 % at round 75" in render_report(**run)


def test_planted_weights_are_shown_only_where_they_are_known(run):
    del run["users"]["planted"]
    run["metrics"] = []
    text = render_report(**run)
    assert "routers" in text
    assert "planted" not in text


def test_no_cold_targets_no_warning(words_only):
    for test in (words_only["summary"]["test"], *words_only["summary"]["baselines"].values()):
        test["cold"] = {"users": 0}
    text = render_report(**words_only)
    assert "cold" not in Page(text.replace("No target is cold", "")).text
    assert "No clear difference from EASE, the best baseline, on NDCG@50" in text


def test_cold_targets_alone_are_judged_on_all(words_only):
    for test in (words_only["summary"]["test"], *words_only["summary"]["baselines"].values()):
        test["warm"] = {"users": 0}
    page = Page(render_report(**words_only))
    assert "No target is warm" in page.text
    assert "judged on its warm targets" not in page.text
    assert "the best baseline, on NDCG@50 (" in page.text


def test_no_baselines(words_only):
    words_only["summary"]["baselines"] = {}
    page = Page(render_report(**words_only))
    assert "No baseline was run" in page.text
    assert "Best baseline" not in page.text
    assert "One seed." not in page.text


@pytest.mark.parametrize("lines", [0, 1])
def test_few_evaluations(run, lines):
    text = render_report(**run | {"metrics": run["metrics"][:lines], "users": {}})
    assert_self_contained(text)
    assert text.count("<svg") == 2 + 1 + 3 * lines


def test_next_to_nothing_is_still_a_page():
    page = Page(render_report({}, {"test": {"users": 0}}, [], {}))
    assert "No test user has a target" in page.text


def test_the_report_imports_no_jax():
    code = (
        "import sys, fedvlr_jax.report; "
        "print({'jax', 'flax', 'scipy', 'pandas', 'absl', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_without_validation_targets_no_round_was_chosen(words_only):
    words_only["summary"]["valid"] = {"users": 0}
    text = Page(render_report(**words_only)).text
    assert "No user has a validation target" in text and "chooses the round" not in text
    assert "selected at round" not in text


def test_speed_and_clipped_uploads_are_shown_where_there_are_any(run):
    page = Page(render_report(**run))
    assert "Rounds per second" in page.text and "78.1" in page.text
    assert "Clipped uploads" not in render_report(**run)
    for line in run["metrics"]:
        line["clipped"] = 0.25
    assert "Clipped uploads" in render_report(**run)


def test_two_users_with_cold_targets_are_no_panel(run):
    run["summary"]["test"]["cold"]["users"] = 2
    text = Page(render_report(**run)).text
    assert "it is judged on its warm targets" not in text and "cold targets" not in text


def test_headings_and_intervals_break_where_a_column_is_narrow(report):
    """Without these breaks the table of a data set with cold targets scrolls at 400 px."""
    headings = re.findall(r"<th[^>]*>([^<]*(?:<wbr>)?@50)</th>", report)
    assert headings and {*headings} == {"HR<wbr>@50", "NDCG<wbr>@50"}
    assert re.search(r'<span class="interval">\d+\.\d&nbsp;– \d+\.\d</span>', report)


def test_every_wide_table_scrolls_and_shows_that_it_does(report):
    assert report.count('class="scroll" tabindex="0" role="region"') == report.count('"scroll"') > 0
    assert "--scroll-shadow" in report and "no-repeat scroll" in report
