"""Whole rounds by every rule: the plans, chunks, stores and devices give one result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.aggregator import make_aggregator
from fedvlr_jax.reduce import REDUCTIONS
from fedvlr_jax.reduce.mean import weighted_mean
from fedvlr_jax.simulation import make_simulation
from tests.conftest import mostly_slow

WHOLE = [name for name in REDUCTIONS if name not in ("float32", "int32", "fixed_mean")]


@functools.cache
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 24, "items": 60})


def small(**choices):
    plain = dict(width=3, router_hidden=3, local_epochs=2, rounds=1, eval_every=1)
    # Steps that make the server's state a sensitive witness of the combined upload.
    plain |= dict(server_optimizer="sgd", server_lr_items=5.0, server_lr_fusion=1.0)
    return Config.from_flat(**{**plain, **choices})


def after_a_round(config, aggregator=None):
    """(packed state, metrics) after one round."""
    simulation = make_simulation(config, dataset(), aggregator=aggregator)
    state, metrics = simulation.run_rounds(simulation.init(), 1)
    return simulation.pack(state), metrics


def assert_same(one, other, tolerance=2e-5):
    # Off the device, only clients that took part have rows of their own.
    rows = jax.tree.map(lambda leaf: leaf[other["clients"]], one["private"])
    for a, b in zip(
        jax.tree.leaves((one["server"].shared, rows)),
        jax.tree.leaves((other["server"].shared, other["private"])),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# Of uploads that are all clipped, these are the mean.
MEAN_OF_CLIPPED = ("norm_bound", "secure")
COMMON = dict(clip_norm=0.02, cohort=17, client_dropout=0.2)


@pytest.fixture(scope="module")
def mean():
    """The server's items after a round by the mean."""
    packed, _ = after_a_round(small(plan="dense", **COMMON))
    return packed["server"].shared["items"]


@pytest.mark.parametrize("rule", mostly_slow(WHOLE, 4))
def test_a_rule_gives_one_result_by_any_plan_chunk_and_store(rule, mean):
    choices = dict(aggregation=rule, **COMMON)
    plain, metrics = after_a_round(small(plan="dense", **choices))
    assert 0 < metrics.clipped[0] and metrics.participants[0] < 17
    moved = np.abs(plain["server"].shared["items"] - mean).max()
    assert moved > 1e-3 or rule in MEAN_OF_CLIPPED
    for more in (dict(plan="dense", chunk=5), dict(plan="gathered", chunk=5, store="host")):
        other, _ = after_a_round(small(**choices, **more))
        assert_same(plain, other)


@pytest.mark.slow
def test_rules_that_bound_uploads_are_not_the_mean():
    plain, _ = after_a_round(small())
    for rule in MEAN_OF_CLIPPED:
        other, _ = after_a_round(small(aggregation=rule))
        moved = np.abs(other["server"].shared["items"] - plain["server"].shared["items"]).max()
        assert moved > 1e-4, rule


@pytest.mark.slow
def test_an_aggregator_made_elsewhere_takes_the_place_of_the_flags():
    # With an own aggregator --init=auto is random.
    config = small(init="random")
    doubled = weighted_mean()
    doubled = doubled._replace(weights=lambda w, p: 2 * weighted_mean().weights(w, p))
    aggregator = make_aggregator(config, 24)._replace(reduce=doubled)
    start = make_simulation(config, dataset()).init().server.shared["items"]
    plain, _ = after_a_round(small(init="random", server_decay=0.0))
    twice, _ = after_a_round(small(init="random", server_decay=0.0), aggregator)
    step = lambda packed: packed["server"].shared["items"] - np.asarray(start)
    # The decay is the config's in both; the aggregator's optimizer is that of `config`.
    assert np.abs(step(twice)).max() > 1.5 * np.abs(step(plain)).max()


def test_an_aggregator_made_elsewhere_begins_from_random_values():
    """The closed form needs plain sums, of which nothing is known here."""
    config = small()
    assert config.resolved.init.init == "ease"
    simulation = make_simulation(config, dataset(), aggregator=make_aggregator(config, 24))
    assert simulation.config.init.init == "random"


def test_the_adaptive_bound_is_state_that_moves_and_is_kept():
    config = small(clip_norm=0.02, clip_quantile=0.5, rounds=3, eval_every=3)
    simulation = make_simulation(config, dataset())
    state, metrics = simulation.run_rounds(simulation.init(), 3)
    assert float(state.server.uplink) != pytest.approx(0.02)
    packed = simulation.pack(state)
    again = simulation.unpack(packed)
    assert float(again.server.uplink) == float(state.server.uplink)
    # A share above the quantile is clipped in the first round, so the bound grows.
    assert metrics.clipped[0] > 0.5 and float(state.server.uplink) > 0.02


@pytest.mark.parametrize("plan, backbone", [("dense", "fedavg"), ("gathered", "fedncf")])
@pytest.mark.slow
def test_clipped_uploads_move_the_server_by_at_most_the_bound(plan, backbone):
    """Jointly over the table and the shared head: without operators, a step of 1 is the mean."""
    config = small(
        plan=plan,
        backbone=backbone,
        fusion="none",
        width=4,
        clip_norm=1e-3,
        server_decay=0.0,
        server_lr_items=1.0,
        server_lr_head=1.0,
    )
    simulation = make_simulation(config, dataset())
    state = simulation.init()
    before = jax.device_get(state.server.shared)
    state, metrics = simulation.run_rounds(state, 1)
    change = jax.tree.map(lambda a, b: np.ravel(a - b), state.server.shared, before)
    moved = np.linalg.norm(np.concatenate(jax.tree.leaves(change)))
    assert metrics.clipped[0] == 1
    # Uploads of different clients do not point the same way.
    assert 1e-5 < moved <= 1e-3 * (1 + 1e-5)


@pytest.mark.parametrize(
    "choices, pieces",
    [
        (dict(plan="catalogue", clip_norm=1.0), ["--plan=catalogue", "norm", "dense, gathered"]),
        (dict(plan="catalogue", aggregation="krum"), ["--plan=catalogue", "whole uploads"]),
        (dict(aggregation="krum", init="spectral", views="table"), ["--aggregation=krum"]),
        (
            dict(noise_multiplier=1.0, clip_norm=1.0, noise="central", aggregation="float32"),
            ["--noise=central", "fixed"],
        ),
        (dict(noise_multiplier=1.0, clip_norm=1.0, aggregation="median"), ["median", "float32"]),
        (dict(clip_quantile=0.5), ["--clip_quantile=0.5", "--clip_norm"]),
        (dict(clip_quantile=1.0, clip_norm=1.0), ["--clip_quantile=1.0"]),
        (dict(byzantine_share=0.5), ["--byzantine_share=0.5", "majority"]),
    ],
)
def test_what_cannot_be_combined_is_refused(choices, pieces):
    with pytest.raises(InputError) as caught:
        make_simulation(small(**choices), dataset())
    for piece in pieces:
        assert piece in caught.value.line


def test_the_fixed_denominator_does_not_depend_on_who_responds():
    config = small(aggregation="fixed_mean", client_dropout=0.5)
    weights = make_aggregator(config, 24).reduce.weights
    responded = jnp.arange(24) < 3
    np.testing.assert_allclose(weights(jnp.ones(24), responded), np.asarray(responded) / 12)
