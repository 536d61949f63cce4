"""Paired tests against the baselines, and the spread of the routers."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.report import RunDirectory, render_report
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training import train
from fedvlr_jax.training.summary import (
    paired_with_baselines,
    router_spread,
    summarise_baselines,
    summarise_run,
    with_baselines,
)


def test_a_baseline_is_tested_user_by_user():
    model = np.array([0.5, 0.4, 0.9, np.nan, 0.2], np.float32)
    other = np.array([0.1, 0.3, 0.5, 0.7, 0.2], np.float32)
    users = {"judged: ndcg@50": model, "a: ndcg@50": other, "b: ndcg@50": model}
    found = paired_with_baselines(users, ["a", "b", "skipped"])
    assert set(found) == {"a", "b"}
    # Differences 0.4, 0.1, 0.4, 0.0: their mean is 0.225.
    assert found["a"]["difference"] == pytest.approx(22.5, abs=1e-4) and found["a"]["users"] == 4
    p = stats.ttest_1samp([0.4, 0.1, 0.4, 0.0], 0).pvalue
    assert found["a"]["p_mean"] == pytest.approx(p, rel=1e-4)
    assert found["a"]["p_holm"] == pytest.approx(2 * p, rel=1e-4)
    assert found["b"]["p_mean"] == 1.0 and found["b"]["difference"] == 0.0


def test_without_users_there_is_no_test():
    assert paired_with_baselines({"a: ndcg@50": np.ones(3)}, ["a"]) == {}
    nothing = {"judged: ndcg@50": np.full(3, np.nan), "a: ndcg@50": np.ones(3)}
    assert paired_with_baselines(nothing, ["a"]) == {}


def test_the_spread_of_routers():
    equal = router_spread(np.full((5, 3), 1 / 3, np.float32))
    assert equal["from_uniform"] == pytest.approx(0, abs=1e-7) and equal["p_uniform"] == [1, 1, 1]
    # Halves lie 0.5 from equal weights, and 0.5 from their mean, which is equal weights.
    halves = router_spread(np.array([[1.0, 0.0], [0.0, 1.0]] * 4))
    assert halves["from_uniform"] == halves["from_mean"] == 0.5
    assert halves["p_uniform"] == [1.0, 1.0]
    alike = router_spread(np.array([[0.9, 0.1]] * 50))
    assert alike["from_mean"] == pytest.approx(0, abs=1e-12)
    assert alike["from_uniform"] == pytest.approx(0.4)
    assert max(alike["p_uniform"]) < 1e-10


def test_a_run_keeps_the_users_of_its_baselines(tmp_path):
    sizes = {"users": 40, "items": 60}
    dataset = load_dataset("synthetic", data_root="", synthetic=sizes)
    config = Config.from_flat(rounds=1, width=8, tune_baselines=False)
    simulation = make_simulation(config, dataset)
    run, timing = train(simulation)
    summary, users = summarise_run(simulation, run, timing)
    names = [name for name, found in summary["baselines"].items() if "skipped" not in found]
    assert set(summary["paired"]) == set(names)
    for name in names:
        mean = 100 * np.nanmean(users[f"{name}: ndcg@50"])
        assert mean == pytest.approx(summary["baselines"][name]["ndcg@50"], rel=1e-5)
    difference = summary["test"]["ndcg@50"] - summary["baselines"]["ease"]["ndcg@50"]
    assert summary["paired"]["ease"]["difference"] == pytest.approx(difference, abs=1e-4)
    directory = RunDirectory.create(tmp_path / "w", overwrite=False)
    directory.write_users(users)
    page = render_report({}, summary, run.evaluations, directory.read_users())
    assert "paired t-test over 40 users" in page and "Users do not differ: " in page

    # Without baselines, and with them later: the same.
    quiet = dataclasses.replace(config.evaluation, baselines=False)
    assert summarise_baselines(dataset, quiet) == ({}, {})
    bare, own = summarise_run(
        simulation, run, timing, baselines=summarise_baselines(dataset, quiet)
    )
    assert bare["baselines"] == bare["paired"] == {}
    later, joined = with_baselines(bare, own, summarise_baselines(dataset, config.evaluation))
    assert later["paired"] == summary["paired"] and set(joined) == set(users)
