"""The audit passes honest releases and flags planted bugs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.commands import audit as command
from fedvlr_jax.commands.audit import audited_exchanges, audits, check
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.aggregator import make_aggregator
from fedvlr_jax.federated.private_ease import noisy_gram
from fedvlr_jax.privacy import accounting
from fedvlr_jax.privacy.audit import (
    Claim,
    audit,
    audit_draws,
    lower_bound,
    mixture_score,
    round_release,
)
from fedvlr_jax.privacy.release import Release, release_of
from fedvlr_jax.reduce.mean import fixed_denominator_mean, weighted_mean
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.uplink import Noise, central_noise, fixed_clip, identity

DELTA = 1e-5
SMALL = dict(width=8, fusion="none", baselines=False, rounds=4, cohort=20, clip_norm=0.1)
# z = 1, one round of everyone: 4.3772 (the analytic Gaussian).
CLAIM = Claim(accounting.epsilon(Release("everyone", 20, 20, 20), 1.0, 1, DELTA).best, DELTA)
BOUND, CLIENTS = 0.5, 20


def parts(**planted):
    honest = {
        "uplink": fixed_clip(BOUND),
        "weights": fixed_denominator_mean(CLIENTS).weights,
        "noise": central_noise(1.0, CLIENTS),
        "clients": CLIENTS,
        "responding": 19,
        "strength": 100.0,
    }
    return round_release(**(honest | planted))


def touched_rows_only(key, upload, weight, bound):
    noisy = central_noise(1.0, CLIENTS).add(key, upload, weight, bound)
    return jax.tree.map(lambda new, old: jnp.where(old != 0, new, old), noisy, upload)


def with_start(key, there):
    """A round, and before it a sum over the clients' histories without noise."""
    return jnp.append(parts()(key, there), jnp.float32(19.0 + there))


# The clip that is missing leaves the canary 100 times too long; the bound is still claimed.
unclipped = identity()._replace(bound=lambda state: BOUND)
RELEASES = {
    "honest": parts(),
    "honest, few respond": parts(responding=1),
    "halved noise": parts(noise=central_noise(0.5, CLIENTS)),
    "no clip": parts(uplink=unclipped),
    "noise on touched rows": parts(noise=Noise(touched_rows_only)),
    "normalised mean": parts(weights=weighted_mean().weights, responding=1),
    "start without noise": with_start,
}


@pytest.mark.parametrize("name", RELEASES)
def test_honest_rounds_pass_and_planted_bugs_do_not(name):
    found = audit(RELEASES[name], CLAIM, trials=60_000)
    assert found.refuted != name.startswith("honest"), found
    # The attack is not a weak one: it finds a part of what an honest round gives away.
    assert found.lower > 1.5


ADAPTIVE_CLIENTS = 11


def adaptive(counts):
    """A round with adaptive clipping at z = 1. `counts` maps a client within the bound to what it
    adds to the released sum, in place of 1/2."""
    flags = dict(privacy="central", clip_norm=BOUND, clip_quantile=0.5, noise_multiplier=1.0)
    aggregator = make_aggregator(Config.from_flat(**flags), ADAPTIVE_CLIENTS)
    uplink = aggregator.uplink

    def planted(key, state, clipped, responded):
        more = jnp.sum(jnp.where(responded & ~clipped, counts - 0.5, 0.0)) / ADAPTIVE_CLIENTS
        return uplink.noisy_update(key, state, clipped, responded) * jnp.exp(-0.2 * more)

    return round_release(
        uplink._replace(noisy_update=planted),
        aggregator.reduce.weights,
        aggregator.noise,
        clients=ADAPTIVE_CLIENTS,
        responding=ADAPTIVE_CLIENTS - 1,
        strength=1.0,
    )


@pytest.mark.parametrize("counts", [0.5, 1.0])
def test_a_share_that_one_client_moves_by_one_is_flagged(counts):
    """sigma_b = 0.55: a move by 1 adds 0.55^-2 to the precision, where 1.1^-2 is claimed."""
    found = audit(adaptive(counts), CLAIM, trials=60_000)
    assert found.refuted == (counts == 1.0), found


def sampled_rounds(sampler, *, population, cohort, rounds, multiplier):
    """The worst case of sampling: the canary uploads +1 along its direction, the others -1.

    A fixed cohort that includes the canary excludes another client, so the sum moves by 2. In a
    Poisson cohort the number of the others is random, and the sum moves by 1. Without the canary
    another client has its place. A release is the noisy sum of each round minus its expectation,
    [rounds].
    """
    q = cohort / population

    def release(key, there):
        who, others, noise = jax.random.split(key, 3)
        taken = jax.random.bernoulli(who, q, (rounds,)) & there
        if sampler == "fixed":
            count = jnp.full(rounds, float(cohort))
            moved = jnp.where(taken, 2.0, 0.0)
        else:
            count = jax.random.binomial(others, population - 1.0, q, (rounds,))
            moved = jnp.where(taken, 1.0, 0.0)
        return moved - count + cohort + multiplier * jax.random.normal(noise, (rounds,))

    return release


@pytest.mark.parametrize(("sampler", "shift"), [("poisson", 1.0), ("fixed", 2.0)])
def test_a_fixed_cohort_that_is_accounted_as_poisson(sampler, shift):
    rounds, z, q = 100, 1.0, 0.1
    release = Release("poisson", 1000, 100, 1000)
    claimed = accounting.epsilon(release, z, rounds, 1e-4).pld
    rounds_ = sampled_rounds(sampler, population=1000, cohort=100, rounds=rounds, multiplier=z)
    # The number of the others is noise as well: of variance 1000 q (1 - q) = 90.
    deviation = z if sampler == "fixed" else (z**2 + 90) ** 0.5
    score = mixture_score(q, shift, deviation)
    # Binomial draws are slow, and with the other's noise there is nothing to be found.
    trials = 20_000 if sampler == "fixed" else 1000
    found = audit(rounds_, Claim(claimed, 1e-4), trials=trials, score=score)
    assert found.refuted == (sampler == "fixed"), found


def test_lower_bound_by_hand():
    """0 of 100: p <= 1 - (error)^(1/100); all of 100: p >= error^(1/100)."""
    error = 0.025
    low, high = error ** (1 / 100), 1 - error ** (1 / 100)
    assert lower_bound(100, 0, 100, 0.0, 0.95) == pytest.approx(np.log(low / high))
    assert lower_bound(5, 5, 100, 0.0, 0.95) == 0.0
    assert lower_bound(0, 0, 100, 1e-5, 0.95) == 0.0


@pytest.fixture(scope="module")
def dataset():
    sizes = {"users": 60, "items": 60, "seed": 0}
    return load_dataset("synthetic", data_root="", synthetic=sizes)


def simulation_of(dataset, **flags):
    return make_simulation(Config.from_flat(**(SMALL | flags)), dataset)


@pytest.mark.parametrize(
    "flags",
    [
        {"privacy": "central"},
        {"privacy": "central", "sampling": "poisson"},
        {"privacy": "central", "client_dropout": 0.2},
        {"privacy": "central", "cohort": 0, "init": "ease", "init_noise_multiplier": 2.0},
        {"privacy": "local"},
        {"privacy": "distributed"},
        {"privacy": "distributed", "honest_share": 0.5},
    ],
)
def test_the_rounds_that_flags_give_pass_an_audit(flags, dataset):
    simulation = simulation_of(dataset, noise_multiplier=1.0, **flags)
    for found in audits(simulation, trials=20_000, confidence=0.99).values():
        assert not found.refuted
        # The attack is not a weak one.
        assert found.lower > 0.3 * min(found.claimed, 5)


@pytest.mark.parametrize("kind", ["central", "local", "distributed"])
def test_less_noise_than_is_claimed_is_refuted(kind, dataset):
    """The aggregator has the noise of z = 0.5, the claim is that of z = 2."""
    honest = simulation_of(dataset, privacy=kind, noise_multiplier=2.0)
    noisy_less = simulation_of(dataset, privacy=kind, noise_multiplier=0.5)
    setup = dataclasses.replace(honest.setup, task=noisy_less.setup.task)
    lying = dataclasses.replace(honest, setup=setup)
    assert audits(lying, trials=20_000, confidence=0.99)["one round"].refuted


def exchanges_of(init, dataset, multiplier=2.0):
    """The audit of exchanges with this noise; the claim is that of a noise multiplier of 2."""
    simulation = simulation_of(
        dataset,
        privacy="central",
        noise_multiplier=1.0,
        cohort=0,
        init=init,
        init_noise_multiplier=2.0,
    )
    claimed = accounting.epsilon(release_of(simulation.config, 60), 1.0, 0, DELTA).best
    flags = dataclasses.replace(simulation.config.init, init_noise_multiplier=multiplier)
    outside, inside = (
        audited_exchanges(flags, there=there, trials=40_000, seed=0) for there in (False, True)
    )
    return audit_draws(inside, outside, Claim(claimed, DELTA))


@pytest.mark.parametrize("init", ["ease", "spectral"])
def test_the_exchanges_pass_an_audit_and_less_noise_does_not(init, dataset):
    honest = exchanges_of(init, dataset)
    assert not honest.refuted
    # The attack is not a weak one.
    assert honest.lower > 0.3 * honest.claimed
    assert exchanges_of(init, dataset, multiplier=0.5).refuted


EXCHANGE_FAULTS = {
    "contributions of length 4": lambda histories, multiplier, draws: (
        noisy_gram(histories, multiplier, draws) + 3 * noisy_gram(histories, 0.0, draws)
    ),
    "noise on the diagonal alone": lambda histories, multiplier, draws: (
        noisy_gram(histories, 0.0, draws) + np.diag(multiplier * draws.standard_normal(200))
    ),
}


@pytest.mark.parametrize("fault", EXCHANGE_FAULTS)
def test_a_wrong_exchange_of_ease_is_refuted(fault, dataset, monkeypatch):
    monkeypatch.setattr(command, "noisy_gram", EXCHANGE_FAULTS[fault])
    assert exchanges_of("ease", dataset).refuted


@pytest.mark.parametrize(
    ("flags", "trials", "confidence", "message"),
    [
        ({}, 5000, 0.99, "privacy=none: claims no epsilon"),
        ({"privacy": "central"}, 999, 0.99, "trials=999: give at least 1000"),
        ({"privacy": "central"}, 5000, 1.0, "confidence=1.0: give at least 0.5"),
        (
            {"privacy": "central", "sampling": "poisson", "noise_cohort_size": 50},
            5000,
            0.99,
            "noise_cohort_size=50: the statement is about a deployment",
        ),
    ],
)
def test_what_cannot_be_audited_is_refused(flags, trials, confidence, message):
    noise = {"noise_multiplier": 1.0} if flags else {}
    with pytest.raises(InputError, match=message):
        check(Config.from_flat(**(SMALL | noise | flags)), trials, confidence)
