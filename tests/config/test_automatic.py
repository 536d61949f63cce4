"""--init=auto, and the options that depend on --init."""

import dataclasses

import pytest

from fedvlr_jax.commands.members import make_members
from fedvlr_jax.commands.train import note_random_init
from fedvlr_jax.config import Config
from fedvlr_jax.config.automatic import against_ease, automatic_values
from fedvlr_jax.data import load_dataset
from fedvlr_jax.simulation import make_simulation

# Combinations that have no sums over all clients, or no row that a client's vector scores.
RANDOM = (
    *({"backbone": "fedavg"}, {"backbone": "fedncf"}, {"fusion": "mlp"}),
    *({"views": "id,text"}, {"views": "table,mlp"}, {"views": "text,image"}),
    *({"cohort": 5}, {"client_dropout": 0.1}, {"deadline_s": 60.0}, {"participation": "uniform"}),
    *({"clip_norm": 0.1}, {"aggregation": "median"}, {"aggregation": "secure"}),
    *(
        {"attack": "sign_flip"},
        {"upload_bits": 4},
        {"upload_rank": 2},
        {"upload_rows": 3, "upload_format": "sparse"},
    ),
    *({"server_optimizer": "none"}, {"cohort": 5, "buffer": 2}),
)
CLOSED = (
    *({}, {"backbone": "pfedrec"}, {"backbone": "fedrap"}, {"aggregation": "int32"}),
    *({"fusion": "none"}, {"fusion": "vbpr"}, {"fusion": "shared"}),
    *({"views": "table,text"}, {"fusion": "none", "views": "id,text"}, {"min_local_epochs": 1}),
)


def values(flags):
    config = Config.from_flat(**flags).resolved
    federation, model = config.federation, config.model
    return (
        config.init.init,
        (federation.loss, federation.client_lr, federation.server_lr_items, model.width),
    )


@pytest.mark.parametrize("flags", RANDOM, ids=str)
def test_auto_is_random(flags):
    assert values(flags) == ("random", ("bce", 3.0, 0.05, 64))


def test_the_flags_that_make_auto_random_are_named():
    named = lambda **flags: against_ease(Config.from_flat(**flags))
    assert named() == []
    assert named(cohort=5, client_dropout=0.1, clip_norm=0.1) == [
        *("--cohort", "--client_dropout", "--clip_norm")
    ]
    assert named(backbone="fedncf", fusion="mlp", aggregation="median") == [
        *("--aggregation=median", "--backbone=fedncf", "--fusion=mlp")
    ]
    private = {"privacy": "central", "clip_norm": 0.1, "noise_multiplier": 1.0}
    assert named(**private) == ["--privacy=central", "--clip_norm"]
    assert named(views="id,text", upload_bits=4) == ["--upload_bits=4", "--views=id,text"]
    assert all(named(**flags) for flags in RANDOM)


def test_a_run_says_why_auto_is_random(capsys):
    for flags in ({}, {"cohort": 5, "init": "random"}):
        note_random_init(Config.from_flat(**flags))
    assert capsys.readouterr().out == ""
    note_random_init(Config.from_flat(cohort=5))
    said = capsys.readouterr().out
    assert said.startswith("--init=auto: random, because of --cohort; ") and "noise" not in said
    private = {"privacy": "central", "clip_norm": 0.1, "noise_multiplier": 1.0}
    note_random_init(Config.from_flat(**private))
    assert "--init=ease, with noise, was better on two of four" in capsys.readouterr().out
    note_random_init(Config.from_flat(fusion="mlp", **private))
    assert "with noise" not in capsys.readouterr().out


@pytest.mark.parametrize("flags", CLOSED, ids=str)
def test_auto_is_ease(flags):
    assert values(flags) == ("ease", ("softmax", 1.0, 0.002, 128))


@pytest.mark.parametrize("flags", [*RANDOM, *CLOSED], ids=str)
def test_auto_chooses_what_the_simulation_supports(flags):
    small = {"width": 4, "router_hidden": 3, "rounds": 1}
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 50})
    simulation = make_simulation(Config.from_flat(**small, **flags), dataset)
    initial = simulation.setup.initialization
    assert (initial is not None) == (values(flags)[0] == "ease")


def test_given_values_stay():
    given = {"loss": "bce", "client_lr": 2.0, "server_lr_items": 0.0, "width": 9}
    assert values(given) == ("ease", ("bce", 2.0, 0.0, 9))
    assert values({"init": "random", "client_lr": 0.5})[1] == ("bce", 0.5, 0.05, 64)


def test_a_resolved_config_stays():
    config = Config.from_flat().resolved
    assert config.resolved == config
    assert Config.from_flat(**config.flat) == config


def test_members_of_a_sweep_begin_alike():
    inits = lambda over: [
        member.config.init.init for member in make_members(Config.from_flat(), [over], [0])
    ]
    assert inits("fusion=none,bilevel") == ["ease", "ease"]
    assert inits("backbone=fcf,fedavg") == ["random", "random"]
    assert inits("clip_norm=0,0.1") == ["random", "random"]
    assert inits("init=random,ease") == ["random", "ease"]


@pytest.mark.parametrize(
    ("init", "rate", "share"),
    [
        ("random", "server_lr_items", "by 50 % after --init=random"),
        ("ease", "server_lr_items", "by 2 % after a closed form"),
        ("random", "server_lr_fusion", "server_lr_fusion times this, by default 3 %"),
    ],
)
def test_the_help_of_server_decay_has_the_shares_of_the_defaults(init, rate, share):
    federation = Config.from_flat(init=init).resolved.federation
    (text,) = (
        field.metadata["help"]
        for field in dataclasses.fields(federation)
        if field.name == "server_decay"
    )
    assert share in text
    assert f"{100 * getattr(federation, rate) * federation.server_decay:.0f} %" in share


@pytest.mark.parametrize(
    "flags, changed",
    [
        ({}, set()),
        ({"cohort": 5}, set()),
        ({"init": "random"}, {"init"}),
        ({"init": "random", "width": 64, "client_lr": 3.0}, {"init"}),
        ({"width": 64, "client_lr": 3.0}, {"width", "client_lr"}),
    ],
)
def test_a_value_that_auto_stands_for_is_no_change(flags, changed):
    resolved = Config.from_flat(**flags).resolved
    values = resolved.flat
    assert {n for n, v in automatic_values(resolved).items() if v != values[n]} == changed
