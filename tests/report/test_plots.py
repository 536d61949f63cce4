"""Figures: the same bytes each time, legible text, nothing where there is nothing to draw."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from fedvlr_jax.report import axes, curves, labels, plots, router_plots, study_plots

VIEWS = ["id", "text", "image"]
GROUPS = ["0-10", "11-20", "21-50", "51-100", "101-200", "201-500", "501+"]


def all_figures(run: dict) -> dict[str, str]:
    summary, metrics, users = run["summary"], run["metrics"], run["users"]
    return {
        "loss": curves.loss_curve(metrics),
        "validation": curves.validation_curve(metrics, "ndcg@50", 75),
        "methods": plots.method_bars(summary, "hr@50"),
        "activity": plots.activity_bars(summary, users),
        "users": plots.user_distribution(users),
        "strip": router_plots.router_strip(users, VIEWS),
        "router": router_plots.router_by_activity(users, VIEWS, GROUPS),
        "planted": router_plots.planted_scatter(users, VIEWS, "text", 0.78),
        "intervals": study_plots.interval_bars("NDCG@50", [("fcf", 30.0, (28.0, 32.5))]),
        "slopes": study_plots.loglog_lines("norm", [1, 2, 4], {("10", "A = 5"): [0.4, 0.2, 0.1]}),
    }


def texts(svg: str) -> list[str]:
    return [e.text for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


def test_every_figure_is_a_small_named_svg_of_page_colours(run):
    for name, svg in all_figures(run).items():
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg", name
        assert root[0].tag.endswith("title") and root[0].text
        assert len(svg) < 120_000, name
        assert "<metadata" not in svg and "date" not in svg.lower(), name
        assert re.search(r"var\(--plot-[1-8], #\w{6}\)", svg), name
        assert not re.findall(r"#0[1-9a-f]0[1-9a-f]0[1-9a-f]\b", svg), "a stand-in is left"


def test_figures_of_one_page_share_no_id(run):
    ids = [i for svg in all_figures(run).values() for i in re.findall(r' id="([^"]*)"', svg)]
    assert len(ids) == len(set(ids)) > 0


def test_axes_say_what_they_show_and_in_what_unit(run):
    figures = all_figures(run)
    assert {"round", "NDCG@50 (%)", "19.8 % at round 75", "warm targets"} <= {
        *texts(figures["validation"])
    }
    assert "HR@50 (%), line: 95% CI over users" in texts(figures["methods"])
    assert {"10", "A = 5", "1/sqrt(T)", "0.1"} <= {*texts(figures["slopes"])}
    planted = texts(figures["planted"])
    assert {"planted weight", "learned weight"} <= {*planted}
    assert any(text.startswith("Spearman 0.78, sd 0.") for text in planted)


def test_small_numbers_keep_their_digits():
    metrics = [{"round": r, "loss": 0.001 * r} for r in (1, 2)]
    assert "0.0012" in texts(curves.loss_curve(metrics))


def test_one_evaluation_alone_is_a_point_on_a_whole_round(run):
    metrics = run["metrics"][:1]
    for svg in (curves.loss_curve(metrics), curves.validation_curve(metrics, "hr@50", 5)):
        assert "5" in texts(svg)
        assert "4.75" not in texts(svg)


def test_a_selected_round_that_was_not_evaluated_is_not_marked(run):
    svg = curves.validation_curve(run["metrics"], "hr@50", 7)
    assert not any("at round" in text for text in texts(svg))


def test_the_mark_is_on_the_slice_that_selects(run):
    """Round 75: 19.8 % on all targets, 1.3 times as many on the warm ones."""
    svg = curves.validation_curve(run["metrics"], "ndcg@50", 75, "warm")
    found = texts(svg)
    assert "25.8 % at round 75" in found and "19.8 % at round 75" not in found
    for line in run["metrics"]:
        line["valid"]["warm"]["ndcg@50"] = line["valid"]["ndcg@50"]
    assert "19.8 % at round 75" in texts(
        curves.validation_curve(run["metrics"], "ndcg@50", 75, "warm")
    )


def test_nothing_to_draw_is_none(run):
    empty = {"users": 0}
    assert curves.loss_curve([]) is None
    assert curves.validation_curve([{"round": 5, "loss": 0.1}], "hr@50", 5) is None
    assert plots.method_bars({"test": empty}, "hr@50") is None
    assert plots.activity_bars({"test": empty | {"activity": {"0-10": empty}}}, {}) is None
    assert plots.user_distribution({}) is None
    assert plots.user_distribution({"ndcg@50": np.full(9, 0.5)}) is None
    assert router_plots.router_strip({}, VIEWS) is None
    assert router_plots.router_strip(run["users"], ["id", "text"]) is None
    assert router_plots.router_by_activity(run["users"], VIEWS, []) is None
    assert router_plots.router_by_activity(run["users"], VIEWS, ["600+"]) is None
    del run["users"]["planted"]
    assert router_plots.planted_scatter(run["users"], VIEWS, "id", 0.5) is None


def test_nothing_is_planted_for_a_fused_view(run):
    run["users"]["planted"][:, 1] = np.nan
    drawn = [
        router_plots.planted_scatter(run["users"], VIEWS, view, None) is not None for view in VIEWS
    ]
    assert drawn == [True, False, True]


def test_slices_and_groups_without_users_are_left_out(run):
    summary = run["summary"]
    assert "501+\n" not in "".join(texts(plots.activity_bars(summary, run["users"])))
    summary["test"]["cold"] = {"users": 0}
    assert "cold targets" not in texts(plots.method_bars(summary, "hr@50"))


def test_a_slice_that_stands_alone_is_named(run):
    run["summary"]["test"]["cold"]["users"] = 2
    assert "Test HR@50, warm targets" in texts(plots.method_bars(run["summary"], "hr@50"))


def test_without_baselines_the_model_stands_alone(run):
    run["summary"]["baselines"] = {}
    assert "fcf + bilevel" in texts(plots.method_bars(run["summary"], "ndcg@50"))


@pytest.mark.parametrize("clients", [1, 30_000])
@pytest.mark.parametrize("views", [1, 8])
@pytest.mark.slow
def test_any_number_of_clients_and_views(clients, views):
    weights = np.random.default_rng(0).dirichlet(np.ones(views), clients)
    users = {
        "router_weights": weights,
        "planted": weights,
        "history_length": np.arange(clients) % 600,
    }
    names = [f"view {g}" for g in range(views)]
    for svg in (
        router_plots.router_strip(users, names),
        router_plots.router_by_activity(users, names, GROUPS),
        router_plots.planted_scatter(users, names, "view 0", None),
    ):
        assert len(svg) < 300_000
    if clients > router_plots.MOST_CLIENTS_DRAWN:
        assert "(400 of 30,000 drawn)" in "".join(texts(router_plots.router_strip(users, names)))


def test_names_are_text_not_mathematics_or_markup(run):
    summary = run["summary"]
    summary["baselines"] = {"$x_1$ <b>&": summary["baselines"]["EASE"], "图像": summary["test"]}
    shown = texts(plots.method_bars(summary, "hr@50"))
    assert "$x_1$ <b>&" in shown and "图像" in shown


def test_groups_of_few_users_are_joined_in_both_figures(run):
    users = run["users"]
    for svg in (
        plots.activity_bars(run["summary"], users),
        router_plots.router_by_activity(users, VIEWS, GROUPS),
    ):
        # 7, 2 and 1 users of 51-100, 101-200 and 201-500.
        named = [text for text in texts(svg) if re.fullmatch(r"\d+-\d+", text)]
        assert named == ["0-10", "11-20", "21-50", "51-500"]


def test_a_bar_of_joined_groups_is_the_mean_over_their_users(run):
    found = []
    drawn = lambda title, paint: paint(found[-1]) or "drawn"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", drawn)
        patch.setattr(plots, "group_ticks", lambda axes, users: None)
        patch.setattr(plots, "legend_below", lambda axes: None)
        found.append(Recorded())
        plots.activity_bars(run["summary"], run["users"])
    bars, lines = found[0].bars, found[0].lines
    assert len(bars) == len(lines) == 8
    # HR@50 of 7 users is 41, of 2 users 48, of one user 55.
    assert bars[3] == pytest.approx((7 * 41 + 2 * 48 + 55) / 10)
    values = 100 * run["users"]["hr@50"][run["users"]["history_length"] <= 10]
    half = 1.96 * values.std(ddof=1) / 150**0.5
    assert lines[0] == pytest.approx([20 - half, 20 + half])


def test_users_are_counted_by_their_own_metric(monkeypatch):
    axes = Recorded()
    monkeypatch.setattr(plots, "draw", lambda title, paint: paint(axes))
    values = np.array([0.0] * 5 + [0.1, 0.2, 0.2001, 0.95, 1.0000001, np.nan])
    plots.user_distribution({"ndcg@50": values})
    # Of ten users: five without a hit, two below a fifth, ...; an edge is in the upper bin.
    assert list(axes.bars[0]) == pytest.approx([50, 10, 20, 0, 0, 20])
    half = 1.96 * 100 * (0.5 * 0.5 / 10) ** 0.5
    assert axes.lines[0] == pytest.approx([50 - half, 50 + half])


class Recorded:
    """Axes that keep the heights of the bars and the ends of the vertical lines."""

    def __init__(self):
        self.bars, self.lines = [], []

    def bar(self, at, height, *_, **__):
        self.bars.append(height)

    def plot(self, at, ends, **_):
        self.lines.append(ends)

    def set(self, **_):
        pass

    def set_ylim(self, **_):
        pass

    def set_xticks(self, *_):
        pass

    def grid(self, **_):
        pass


def test_no_colour_is_both_a_slice_and_a_view():
    views = {axes.view_colour(place) for place in range(5)}
    assert len(views) == 5 and not views & set(axes.SLICE_COLOURS.values())


def test_labels_of_choices_have_what_differs():
    folders = [
        "cohort=50-rate=0.1-init_user_power=1e-05",
        "cohort=65-rate=0.1-init_user_power=1e-05",
    ]
    assert labels.telling(folders) == ["cohort=50", "cohort=65"]
    assert labels.telling(["a=1 b=2", "a=1 b=2 c=x-y"]) == ["a=1 b=2", "a=1 b=2 c=x-y"]
    assert labels.telling(["default"]) == ["default"] and labels.telling(["", ""]) == ["", ""]
