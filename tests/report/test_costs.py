"""What a report says of costs and attacks."""

import re

import numpy as np

from fedvlr_jax.report.costs import compared_curves, cost_curves, cost_rows
from fedvlr_jax.report.heat import heat_table

COSTS = {
    "client_round_bytes": {"down": 2000.0, "up": {"dense": 2000.0, "sparse": 512.0}},
    "sampled": 130,
    "responded": 100,
    "bytes_down": 260000.0,
    "bytes_up": 12.345e9,
    "simulated_h": 1.25,
    "client_h": 4.0,
    "wasted_share": 0.25,
    "energy": {"total_wh": 12.0, "co2e_g": 5.2},
    "participation_gini": 0.4,
    "never_took_part": 0.9486,
    "reached": [{"share": 0.9, "hours": 1.25, "bytes": 4.6e5, "wh": 12.0}],
    "curve": [
        {"round": 0, "hours": 0.0, "bytes": 0.0, "wh": 0.0, "ndcg@50": 2.0},
        {"round": 5, "hours": 1.25, "bytes": 4.6e5, "wh": 12.0, "ndcg@50": 7.0},
    ],
}


def test_rows_of_a_run_with_a_clock_and_hostile_clients():
    attack = {"hostile": 5, "er@10": 0.25, "selected": {"er@10": 0.125}}
    low = {"users": 1700, "hr@50": 19.42, "ndcg@50": 4.88}
    mid = {"users": 20, "hr@50": 25.0, "ndcg@50": 6.25}
    tiers = {"low": low, "mid": mid, "high": {"users": 0}, "largest_difference": 0.12}
    rows = dict(cost_rows({"costs": COSTS, "attack": attack, "tiers": tiers}))
    assert rows["up, sparse"] == "0.5 kB"
    assert rows["client hours, wasted share"] == "4.00, 25 %"
    assert rows["energy, an estimate"] == "12 Wh" and rows["CO2e, an estimate"] == "5.2 g"
    assert rows["MB down / up"] == "0.26 / 12,345"
    assert rows["hours, MB and Wh to 90% of the best NDCG@50"] == "1.25 h, 0.46 MB, 12 Wh"
    assert rows["clients that never took part"] == "95 %"
    assert rows["low tier: users, HR@50 / NDCG@50"] == "1,700, 19.4 / 4.9 %"
    assert rows["mid tier: users, HR@50 / NDCG@50"] == "20, 25.0 / 6.2 %"
    assert "high tier: users, HR@50 / NDCG@50" not in rows
    assert rows["ER@10 at the end"] == "0.250" and rows["largest difference of tiers"] == "12 %"


def test_a_run_without_a_clock_says_bytes_alone():
    rows = cost_rows({"costs": {"client_round_bytes": COSTS["client_round_bytes"]}})
    assert [label for label, _ in rows] == ["down, a client and round", "up, dense", "up, sparse"]
    assert cost_rows({}) == [] and cost_curves({}) == []


def test_curves_name_their_axes():
    figures = cost_curves({"costs": COSTS})
    assert len(figures) == 3
    for figure, axis in zip(figures, ("simulated hours", "bytes", "Wh"), strict=True):
        assert axis in figure and figure.startswith("<svg")


def test_a_table_in_colours_holds_its_numbers():
    values = np.array([[0.97, 0.01], [np.nan, 0.5]])
    figure = heat_table("ER@10", ["fedrec", "alie"], ["mean", "median"], values)
    for text in ("fedrec", "median", "0.97", "0.01", "–"):
        assert text in figure


def test_curves_of_unequal_runs_stay_legible():
    """Runs that differ by more than ten times get a logarithmic axis, with plain numbers."""
    curve = lambda hours: [
        {"round": n, "hours": n * hours, "bytes": n * 1e6, "wh": n, "ndcg@50": 10.0 + n}
        for n in range(3)
    ]
    long = "cohort=50-over_selection=1.3-buffer=0-eval_every=5-server_lr_items="
    found = compared_curves({f"{long}0.05": curve(1.0), f"{long}0.02": curve(0.01)})
    ticks = lambda svg: re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"0.01", "0.1", "1"} <= set(ticks(found["hours"]))
    # The legend has what differs; bytes are equal, so their axis is linear.
    assert "server_lr_items=0.05" in ticks(found["hours"]) and "cohort" not in found["hours"]
    assert "0.01" not in ticks(found["bytes"])
