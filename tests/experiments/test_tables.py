"""The launchers of whole tables: what they leave, that it adds up, and what they refuse."""

import csv
import json

import numpy as np
import pytest

from fedvlr_jax.centralized import CENTRALIZED, LEARNING_RATES, CentralizedConfig, make_centralized
from fedvlr_jax.commands.ablation import CLAIMS, controls, make_member
from fedvlr_jax.commands.flags.table2 import METHODS
from fedvlr_jax.commands.table2 import GRID, LOCAL_GRID, parse_method, settings_of
from fedvlr_jax.commands.table3 import client_costs
from fedvlr_jax.config import Config, EvaluationConfig
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from tests.experiments.commands import SMALL


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})


def test_methods_are_named_by_their_parts():
    assert parse_method("fcf+bilevel").flags == (("backbone", "fcf"), ("fusion", "bilevel"))
    assert parse_method("fcf+mlp").vanilla == parse_method("fcf+none").vanilla == "fcf+none"
    assert dict(parse_method("fcf+none+local").flags)["server_optimizer"] == "none"
    groups = parse_method("fedavg+none+groups")
    assert groups.vanilla == "fedavg+none"
    assert Config.from_flat(**dict(groups.flags)).groups.groups == 5
    assert not parse_method("vbpr").flags
    for name in ("vbqr", "fcf", "fcf+magic", "fcf+mlp+far"):
        with pytest.raises(InputError, match="methods="):
            parse_method(name)
    assert len(METHODS) == len(set(METHODS)) == 31


def test_budgets_are_equal(dataset):
    budgets = {len(settings_of(GRID)), len(settings_of(LOCAL_GRID))}
    for name in CENTRALIZED:
        trainer = make_centralized(CentralizedConfig(model=name), EvaluationConfig(), dataset)
        budgets.add(len(LEARNING_RATES) * len(trainer.model.grid[1]))
    assert budgets == {9}


@pytest.mark.long
@pytest.mark.slow
def test_table2_compares_every_method_with_its_references(run, tmp_path):
    methods = "vbpr,fcf+none,fcf+vbpr"
    short = ("--rounds=2", "--patience=1", "--seeds=0", "--workdir=w")
    done = run("table2", *SMALL, *short, f"--methods={methods}")
    assert done.returncode == 0, done.stderr
    lines = {e["choice"]: e for e in json.loads((tmp_path / "w/table2.json").read_text())}
    known = ["popularity", "item_knn", "rp3beta", "puresvd", "ials", "ease"]
    known += ["transitions", "ease_content"]
    known += [f"content_knn_{name}" for name in ("text", "image", "all")]
    assert set(lines) == {*known, *methods.split(",")}
    fused = lines["fcf+vbpr"]
    assert fused["vanilla"]["against"] == "fcf+none" and "vanilla" not in lines["fcf+none"]
    difference = fused["all_ndcg@50"] - lines["fcf+none"]["all_ndcg@50"]
    assert fused["vanilla"]["gain"] == pytest.approx(difference)
    assert (
        "EASE + content [centralized, content-aware, 9 settings]"
        in (tmp_path / "w/table2.md").read_text()
    )
    pooled = (*known, "vbpr")
    best = max(pooled, key=lambda name: lines[name]["valid"])
    assert fused["baseline"]["against"] == best and "baseline" not in lines[best]
    tuning = json.loads((tmp_path / "w/tuning.json").read_text())["synthetic"]
    assert {name: len(tried) for name, tried in tuning.items()} == dict.fromkeys(
        methods.split(","), 9
    )
    for name, tried in tuning.items():
        highest = max(entry["valid"] for entry in tried)
        assert lines[name]["valid"] == pytest.approx(highest)
    assert len(list(csv.reader((tmp_path / "w/table2.csv").open()))) == 15
    assert "fcf+vbpr" in (tmp_path / "w/table2.md").read_text()
    assert "<svg" in (tmp_path / "w/table2-synthetic.svg").read_text()


def test_costs_by_hand(dataset):
    cost = lambda **flags: client_costs(Config.from_flat(width=8, **flags), dataset)
    plain = cost(backbone="fcf", fusion="none")
    # 60 items x 8; the user's vector and its bias.
    assert (plain["broadcast"], plain["private"], plain["held"]) == (480, 9, 489)
    assert plain["bytes_down"] == plain["bytes_up"] == 4 * 480
    fused = cost(backbone="fcf", fusion="bilevel", views="id,text,image", router_hidden=4)
    # Three views; a router of 24 -> 4 -> 3 with biases.
    assert fused["broadcast"] == 3 * 480 and fused["private"] == 9 + 24 * 4 + 4 + 4 * 3 + 3
    # One negative a positive, one epoch: twice the history is touched, at most all.
    sampled = cost(
        backbone="fcf", fusion="none", negatives="sampled", num_negatives=1, local_epochs=1
    )
    touched = np.minimum(2 * dataset.train.counts, 60).mean()
    assert sampled["bytes_up"] == pytest.approx(4 * 8 * touched)
    noisy = dict(clip_norm=1.0, noise_multiplier=1.0, num_negatives=1, negatives="sampled")
    assert cost(backbone="fcf", fusion="none", **noisy)["bytes_up"] == 4 * 480
    shared = cost(backbone="fedavg", fusion="none")
    assert (shared["broadcast"], shared["private"]) == (489, 0)


def test_controls_are_what_they_are_called(dataset):
    base = Config.from_flat(init="random")
    of_claim = controls(base, ("image", "text"))
    assert tuple(of_claim) == CLAIMS
    found = {name: dict(choice) for part in of_claim.values() for name, choice in part.items()}
    assert found["the ID alone"]["views"] == "id"
    assert found["permuted feature rows"] == {"fusion": "bilevel", "permute_features": 1}
    assert found["one shared mixture"]["fusion"] == "shared"
    assert found["frozen uniform routers"]["router_lr"] == 0
    assert found["local only"]["server_optimizer"] == "none"
    assert found["without text"]["views"] == "id,image"
    assert found["client refinement alone"]["server_lr_fusion"] == 0
    assert found["permuted order"] == {"fusion": "bilevel", "permute_order": 1}
    assert found["without order"] == {"fusion": "bilevel"}
    ordered = controls(Config.from_flat(recency=1.0), ("image", "text"))["order"]
    assert dict(ordered["without order"]) == {
        "fusion": "bilevel",
        **dict(recency=0.0, init_recency=0.0, init_transitions=0.0),
    }
    for choice in found.values():
        assert Config.from_flat(**choice)
    alone = dict(controls(Config.from_flat(), ("image", "text"))["content"]["the ID alone"])
    assert alone == {"fusion": "bilevel", "views": "table", "init_content": 0.0}
    spectral = Config.from_flat(init="spectral", views="table,image,text")
    of_claim = controls(spectral, ("image", "text"))
    assert dict(of_claim["content"]["the ID alone"])["views"] == "table"
    assert dict(of_claim["federation"]["local only"])["init"] == "random"
    with pytest.raises(InputError, match="no item features"):
        controls(base, ())
    assert "frozen mean routers" not in found
    by_history = controls(Config.from_flat(init="random", init_router="history"), ("text",))
    mean = dict(by_history["personal"]["frozen mean routers"])
    assert mean == {"fusion": "bilevel", "router_lr": 0.0, "init_router": "mean"}
    assert "frozen planted routers" not in by_history["personal"]
    own = Config.from_flat(init="random", init_router="history")
    planted = dict(controls(own, ("text",), planted=True)["personal"]["frozen planted routers"])
    assert planted == {"fusion": "bilevel", "router_lr": 0.0, "init_router": "planted"}
    second = make_member(base, "permuted", (("permute_features", 1),), 1)
    assert second.config.data.permute_features == 2
    second = make_member(base, "permuted", (("permute_order", 1),), 1)
    assert second.config.data.permute_order == 2


@pytest.mark.long
@pytest.mark.slow
def test_claims_are_compared_with_their_controls(run, tmp_path):
    arguments = ("--rounds=2", "--seeds=0,1", "--claims=content,personal", "--workdir=w")
    arguments += ("--init=random",)
    done = run("ablation", *SMALL, *arguments)
    assert done.returncode == 0, done.stderr
    method, *lines = json.loads((tmp_path / "w/ablation.json").read_text())
    assert [(line["claim"], line["choice"]) for line in lines] == [
        ("content", "the ID alone"),
        ("content", "permuted feature rows"),
        ("personal", "one shared mixture"),
        ("personal", "frozen uniform routers"),
    ]
    for line in lines:
        judged = f"{method['slice']}_ndcg@50"
        assert line["gain"] == pytest.approx(method[judged] - line[judged])
        assert line["p_mean"] <= line["p_holm"] <= 1 and line["detectable"] > 0
    permuted = tmp_path / "w/permuted-feature-rows"
    flags = [json.loads((permuted / f"seed{s}/config.json").read_text())["flags"] for s in (0, 1)]
    assert [of_seed["permute_features"] for of_seed in flags] == [1, 2]
    assert "<svg" in (tmp_path / "w/ablation.svg").read_text()
