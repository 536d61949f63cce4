"""Flags that act only together with others: each is named where it has no effect."""

import functools
import json
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from fedvlr_jax.commands.evaluate import note_unused_k, places
from fedvlr_jax.commands.flags import evaluate, robustness, sweep, table2, train
from fedvlr_jax.commands.launching import config_flags
from fedvlr_jax.commands.members import make_members, note_unused_by
from fedvlr_jax.commands.one_run.runs import describe, load
from fedvlr_jax.commands.robustness import note_unused_terms
from fedvlr_jax.commands.table2 import GRID, LOCAL_GRID, with_given
from fedvlr_jax.config import Config, unused
from fedvlr_jax.config.unused import (
    ACTS,
    ATTACKS_WITHOUT_STRENGTH,
    RULES_WITH_SHARE,
    unused_by_all,
    why_unused,
)
from fedvlr_jax.errors import InputError
from fedvlr_jax.registry import ATTACKS, RULES
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training.costs import summarise_costs
from tests.bits import digest
from tests.conftest import ROOT, mostly_slow

# No condition on other flags of the configuration.
ALWAYS = {
    *("dataset", "split", "recency", "permute_features"),
    *("backbone", "fusion", "width", "init_scale", "history_weight"),
    *("rounds", "cohort", "sampling", "client_dropout", "local_epochs", "min_local_epochs"),
    *("upload", "negatives", "num_negatives", "loss", "server_optimizer", "plan"),
    *("chunk", "init", "init_router", "privacy", "clip_norm", "attack"),
    *("defense_similarity", "defense_distance", "participation", "over_selection", "deadline_s"),
    *("groups", "buffer", "download_rows", "upload_rank", "upload_bits", "upload_rows"),
    *("protocol", "ks", "select", "eval_every", "patience", "baselines"),
    *("seed", "workdir", "overwrite", "resume", "checkpoint_every", "checkpoint_share"),
    *("keep_checkpoints", "store", "devices", "memory_budget_gb", "keep_best"),
}
# Refused where it would have no effect, with a value that is.
REFUSED = {
    "cohort_places": 5,
    "secure_bound": 2.0,
    "secure_levels": 16,
    "secure_threshold": 0.7,
    "target_epsilon": 3.0,
    "noise_cohort_size": 9,
    "population": 9,
    "honest_share": 0.5,
    "clip_quantile": 0.5,
    "noise_bands": 2,
    "defense_items": 3,
    "group_weight": 0.5,
    "group_rounds": 7,
    "group_epochs": 7,
    "trace": "file.csv",
    "pause_s": 5.0,
    "max_staleness": 3,
    "init_noise_multiplier": 1.0,
}
# Refused by the plan, which depends on the data too.
BY_PLAN = {"matmul_precision"}

RANDOM, SPECTRAL, EASE = {"init": "random"}, {"init": "spectral"}, {"init": "ease"}
CLOCK = {"deadline_s": 5.0}
HISTORY = {"init_router": "history"}
PRIVATE = {
    "privacy": "central",
    "clip_norm": 0.1,
    "noise_multiplier": 1.0,
    "init": "spectral",
    "target_delta": 1e-3,
}
NO_STEP = {"server_optimizer": "none"}
# Flag: (a value, flags with which it acts, flags with which it does not).
CASES = {
    "data_root": ("elsewhere", {"dataset": "KU"}, [{}]),
    "duplicates": ("error", {"dataset": "KU"}, [{}]),
    "synthetic_kind": ("equal", {}, [{"dataset": "own"}]),
    "synthetic_users": (30, {}, [{"dataset": "own"}]),
    "synthetic_items": (60, {}, [{"dataset": "own"}]),
    "synthetic_seed": (1, {}, [{"dataset": "own"}]),
    "views": ("table,text", {"fusion": "shared"}, [{"fusion": f} for f in ("none", "vbpr", "mlp")]),
    "router_hidden": (5, RANDOM, [{"fusion": f} for f in ("none", "vbpr", "mlp", "shared")]),
    "router_lr": (0.5, RANDOM, [{"fusion": f} for f in ("none", "vbpr", "mlp", "shared")]),
    "fedrap_repulsion": (0.5, {"backbone": "fedrap"}, [{}, {"backbone": "fedncf"}]),
    "fedrap_l1": (0.5, {"backbone": "fedrap"}, [{}, {"backbone": "pfedrec"}]),
    "client_lr": (
        *(0.5, {"backbone": "fedncf"}),
        [{"backbone": "fedavg", "upload": u, "fusion": f} for u, f in (("delta", "none"),)]
        + [{"backbone": "fedavg"}, {"backbone": "fedavg", "negatives": "sampled"}],
    ),
    "client_decay": (
        *(0.5, {}),
        [{"backbone": "fedavg"}, {"backbone": "fedavg", "upload": "delta", "fusion": "none"}],
    ),
    "item_lr": (0.5, {"backbone": "pfedrec"}, [{}, {"backbone": "fedavg"}, {"backbone": "fedncf"}]),
    "fedavg_rows": ("tuned", {"backbone": "fedavg"}, [{}, {"backbone": "pfedrec"}]),
    "delta_lr": (0.5, {"upload": "delta"}, [{}, {"negatives": "sampled"}]),
    "aggregation": ("median", {}, [NO_STEP]),
    "server_lr_items": (0.5, {}, [NO_STEP]),
    "server_decay": (0.5, {}, [NO_STEP]),
    "server_lr_fusion": (0.5, RANDOM, [{"fusion": "none"}, NO_STEP]),
    "server_lr_head": (
        *(0.5, {"backbone": "fedavg"}),
        [{}, {"backbone": "pfedrec"}, {"backbone": "fedrap"}, {**NO_STEP, "backbone": "fedncf"}],
    ),
    "byzantine_share": (
        *(0.3, {"aggregation": "trimmed_mean"}),
        [{"aggregation": r} for r in ("float32", "median", "geometric_median", "norm_bound")]
        + [{"aggregation": "trimmed_mean", **NO_STEP}],
    ),
    "permute_order": (1, {"recency": 1.0, **RANDOM}, [{**RANDOM, "baselines": False}]),
    "init_topics": (2, HISTORY, [{}, {**HISTORY, **RANDOM, "views": "text,image"}]),
    "init_sharpness": (2.0, HISTORY, [{}, {**HISTORY, "views": "table"}]),
    "init_exchanges": (1, {}, [RANDOM, {"cohort": 9}, {**PRIVATE, "init": "ease"}]),
    "init_user_power": (0.9, SPECTRAL, [{}, RANDOM]),
    "init_item_power": (0.9, SPECTRAL, [{}, RANDOM]),
    "init_shrinkage": (3.0, SPECTRAL, [{}, RANDOM]),
    "init_ridge": (3.0, {}, [RANDOM, SPECTRAL]),
    "init_normalization": (0.5, EASE, [RANDOM, SPECTRAL]),
    "init_ials": (1, EASE, [RANDOM, SPECTRAL]),
    "init_transitions": (0.5, EASE, [RANDOM, SPECTRAL]),
    "init_content": (3.0, EASE, [RANDOM, SPECTRAL]),
    "init_recency": (1.0, EASE, [RANDOM, SPECTRAL]),
    "init_score": (1.0, SPECTRAL, [RANDOM]),
    "target_delta": (1e-4, PRIVATE, [{}]),
    "noise": (
        *("central", {"clip_norm": 1.0, "noise_multiplier": 1.0}),
        [{}, {"clip_norm": 1.0}, PRIVATE],
    ),
    "noise_multiplier": (
        # Uploads of few rows: noise is on all rows.
        *(1.0, {"clip_norm": 1.0, "negatives": "sampled", "local_epochs": 1, **NO_STEP}),
        [{"clip_norm": 1.0, "noise": n, **NO_STEP} for n in ("client", "central")],
    ),
    "hostile_share": (0.5, {"attack": "sign_flip", "aggregation": "norm_bound"}, [{}]),
    "target_items": ("popular", {"attack": "a_ra"}, [{}]),
    "num_targets": (2, {"attack": "a_ra"}, [{}]),
    "attack_seed": (3, {"attack": "sign_flip"}, [{}]),
    "attack_strength": (
        *(3.0, {"attack": "sign_flip"}),
        [
            *({}, {**NO_STEP, "attack": "sign_flip"}),
            *({"attack": name} for name in ATTACKS_WITHOUT_STRENGTH),
        ],
    ),
    "available_share": (0.9, {"participation": "uniform"}, [{}, CLOCK]),
    "speed_activity_correlation": (0.9, CLOCK, [{}]),
    "upload_format": ("sparse", {**CLOCK, "negatives": "sampled"}, [{"negatives": "sampled"}]),
    "tune_baselines": (False, {}, [{"baselines": False}]),
    "store_dir": ("elsewhere", {"store": "disk"}, [{}, {"store": "host"}]),
}
ACTING = [(name, value, with_them) for name, (value, with_them, _) in CASES.items()]
IDLE = [(name, value, each) for name, (value, _, without) in CASES.items() for each in without]


def test_every_flag_is_in_one_list():
    lists = (ACTS, ALWAYS, REFUSED, BY_PLAN)
    assert sum(map(len, lists)) == len(Config().flat)
    assert set().union(*lists) == set(Config().flat)
    assert CASES.keys() == ACTS.keys()


@pytest.mark.parametrize(("name", "value"), [*REFUSED.items(), ("noise_multiplier", 1.0)])
def test_some_flags_are_refused_where_they_have_no_effect(name, value):
    with pytest.raises(InputError, match=f"{name}="):
        Config.from_flat(**{name: value})


@pytest.mark.parametrize(("name", "value", "others"), ACTING)
def test_a_flag_that_acts_has_no_line(name, value, others):
    assert name not in {each.name for each in unused(Config.from_flat(**{**others, name: value}))}


@pytest.mark.parametrize(("name", "value", "others"), IDLE)
def test_a_flag_without_effect_has_a_line(name, value, others):
    (found,) = (f for f in unused(Config.from_flat(**{**others, name: value})) if f.name == name)
    shown = "false" if value is False else value
    assert found.line == f"--{name}={shown} has no effect: {found.why}"
    assert "{" not in found.line and found.why


@pytest.mark.parametrize("others", [{}, {"backbone": "fedavg"}, NO_STEP, RANDOM])
def test_values_that_were_not_given_have_no_line(others):
    config = Config.from_flat(**others)
    assert unused(config) == unused(config.resolved) == []


def test_rules_and_attacks_are_those_that_take_the_value():
    import inspect

    takes = lambda choice, name: name in inspect.signature(choice.load()).parameters
    of_share = {name for name, rule in RULES.items() if takes(rule, "byzantine_share")}
    assert of_share == set(RULES_WITH_SHARE)
    without = {name for name, attack in ATTACKS.items() if not takes(attack, "strength")}
    assert without == set(ATTACKS_WITHOUT_STRENGTH)


def test_a_flag_that_acts_on_one_run_has_no_line():
    configs = [Config.from_flat(fusion=f, router_lr=1.0) for f in ("none", "bilevel", "mlp")]
    assert not unused_by_all(configs, ["router_lr"])
    (found,) = unused_by_all(configs[::2], ["router_lr", "fusion"])
    assert found.line == "--router_lr=1.0 has no effect: --fusion=none has no router"
    assert not unused_by_all([], ["router_lr"])


@pytest.fixture
def printed(capsys, monkeypatch):
    """(flags of a command, arguments, its function of the parsed flags) -> lines on stderr."""

    def lines(define, arguments, function):
        before = set(flags.FLAGS)
        define()
        own = set(flags.FLAGS) - before
        try:
            monkeypatch.setattr(sys, "argv", ["train", *arguments])
            with flagsaver.flagsaver():
                flags.FLAGS([config_flags.with_preset(argument) for argument in sys.argv])
                function()
        finally:
            flags.FLAGS.remove_flag_values(sorted(own))
        return capsys.readouterr().err.splitlines()

    return lines


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], []),
        (["--attack_seed=0"], []),
        (["--attack_seed=3"], ["note: --attack_seed=3 has no effect: there is no --attack"]),
        # Presets hold values for several backbones.
        (["--preset=paper"], []),
        (
            ["--preset=paper", "--item_lr=2"],
            ["note: --item_lr=2.0 has no effect: --backbone=fcf has no private item rows"],
        ),
    ],
)
def test_train_names_the_given_flags(printed, arguments, expected):
    note = lambda: config_flags.note_unused(config_flags.config_from_flags())
    assert printed(train.define_flags, arguments, note) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--over=fusion=none,bilevel", "--router_lr=1"], 0),
        (["--over=fusion=none,mlp", "--router_lr=1"], 1),
        (["--over=router_lr=1,2"], 0),
        (["--over=router_lr=1,2", "--fusion=none"], 1),
        (["--over=backbone:item_lr=pfedrec:2,fcf:1"], 0),
    ],
)
def test_a_sweep_names_flags_without_effect_on_all_members(printed, arguments, expected):
    def note():
        base = config_flags.config_from_flags(workdir="x")
        note_unused_by(make_members(base, flags.FLAGS.over, [0, 1]))

    assert len(printed(sweep.define_flags, ["--init=random", *arguments], note)) == expected


@pytest.mark.parametrize("value", ["65", "0"])
def test_a_given_flag_that_over_sets_is_named(printed, value):
    """Also if it is given its default, which counts as given here."""

    def note():
        members = make_members(config_flags.config_from_flags(workdir="x"), flags.FLAGS.over, [0])
        config_flags.note_overruled({name for m in members for name, _ in m.choice}, by="over")

    over = "--over=cohort=50,100"
    assert printed(sweep.define_flags, [over, "--fusion=none"], note) == []
    assert printed(sweep.define_flags, [over, f"--cohort={value}"], note) == [
        f"note: --cohort={value} has no effect: --over sets it"
    ]


@pytest.mark.parametrize(
    ("rules", "given", "named"),
    [
        ("median", [], 0),
        ("median,krum", ["--defense_similarity=0.5", "--defense_items=5"], 2),
        ("median,client_terms", ["--defense_similarity=0.5"], 0),
    ],
)
def test_robustness_names_terms_that_no_rule_uses(printed, rules, given, named):
    arguments = [f"--rules={rules}", *given]
    lines = printed(robustness.define_flags, arguments, note_unused_terms)
    assert len(lines) == named
    assert all(f"has no effect: --rules={rules} does not name" in line for line in lines)


def test_evaluate_names_a_length_of_lists_that_it_does_not_write(printed):
    assert printed(evaluate.define_flags, ["--k=5", "--export=x.csv"], note_unused_k) == []
    assert printed(evaluate.define_flags, ["--k=5"], note_unused_k) == [
        "note: --k=5 has no effect: there is no --export"
    ]


@pytest.mark.parametrize(
    ("arguments", "small", "large"), [([], 18, 50), (["--k=40"], 40, 40), (["--k=50"], 50, 50)]
)
def test_the_default_length_of_lists_fits_a_small_catalogue(printed, arguments, small, large):
    def check():
        assert (places(18), places(300)) == (small, large)

    printed(evaluate.define_flags, arguments, check)


def test_table2_does_not_tune_a_given_flag(printed):
    found = []

    def grids():
        base = config_flags.config_from_flags()
        found.extend(with_given(grid, base) for grid in (GRID, LOCAL_GRID))

    printed(table2.define_flags, ["--preset=paper", "--server_decay=10", "--client_lr=2"], grids)
    # 10 is the default; the preset is not given by the command line.
    assert found[0] == {**GRID, "server_decay": (10.0,)}
    assert found[1] == {**LOCAL_GRID, "client_lr": (2.0,)}


def test_config_json_has_the_flags_without_effect():
    config = Config.from_flat(synthetic_users=20, synthetic_items=50, attack_seed=3)
    found = describe(config.resolved, load(config, note=lambda line: None))["unused"]
    assert found == {"attack_seed": "there is no --attack"}


SMALL = {"width": 4, "router_hidden": 3, "synthetic_users": 20, "synthetic_items": 50, "rounds": 2}
# Their effect is not in the training; that of --target_delta is in the statement.
OUTSIDE = {"data_root", "duplicates", "tune_baselines", "store_dir", "target_delta"}


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory):
    """A data set in a folder, of the sizes of the synthetic data."""
    root = tmp_path_factory.mktemp("data")
    (root / "own").mkdir()
    rng = np.random.default_rng(0)
    rows = [(u, i) for u in range(20) for i in rng.choice(50, 6, replace=False)]
    lines = [f"{u},{i},{t}" for t, (u, i) in enumerate(rows)]
    (root / "own" / "inter.csv").write_text("\n".join(["userID,itemID,timestamp", *lines]) + "\n")
    trained.cache_clear()
    return str(root)


@functools.cache
def trained(root, given):
    """A digest of two rounds of a run with the flags `given`, and its costs."""
    config = Config.from_flat(**{**SMALL, "data_root": root, **dict(given)})
    simulation = make_simulation(config, load(config, note=lambda line: None))
    state, metrics = simulation.run_rounds(simulation.init(), 2)
    evaluations = [{"round": 2, "valid": {"ndcg@50": 1.0}}]
    costs = summarise_costs(simulation, 0, 2, evaluations)
    return digest((state, metrics)), json.dumps(costs, sort_keys=True)


def of_flags(root, **given):
    return trained(root, tuple(given.items()))


def idle_together():
    """(flags, those without effect on it, all with other values) of each run of IDLE."""
    runs = []
    for name, value, others in IDLE:
        if name in OUTSIDE:
            continue
        others = {"fusion": "none", **others} if "dataset" in others else others
        same = [idle for run, idle in runs if run == others]
        if not same:
            runs.append((others, same := {}))
            same = [same]
        same[0][name] = value
    return runs


@pytest.mark.parametrize(("others", "idle"), mostly_slow(idle_together(), 8))
def test_flags_without_effect_change_no_bit(own, others, idle):
    given = {**others, **idle}
    assert idle.keys() <= {flag.name for flag in unused(Config.from_flat(**given))}
    assert of_flags(own, **others) == of_flags(own, **given)


@pytest.mark.parametrize(
    ("name", "value", "others"),
    mostly_slow([case for case in ACTING if case[0] not in OUTSIDE], 25),
)
def test_a_flag_with_effect_changes_the_run(own, name, value, others):
    assert of_flags(own, **others) != of_flags(own, **{**others, name: value})


@pytest.mark.parametrize("path", sorted((ROOT / "fedvlr_jax/presets").glob("*.flags")), ids=str)
def test_presets_are_read_as_flags(path):
    lines = [x for x in path.read_text().splitlines() if x and not x.startswith("#")]
    values = config_flags._preset_values([f"--preset={path.stem}"])
    assert [f"--{name}={value}" for name, value in values.items()] == lines
    assert why_unused(Config(), "seed") == ""
