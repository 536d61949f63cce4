"""Clipping over 10,000 random uploads, and the law of the noise over a million draws.

All draws have fixed seeds. A test of the noise fails for a right generator with a chance below
1e-6 over the choice of the seed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedvlr_jax.types import Cohort, Histories
from fedvlr_jax.uplink import (
    JoinedUploads,
    LowRankUploads,
    SlotUploads,
    Upload,
    band_coefficients,
    banded_noise,
    central_noise,
    client_noise,
    fixed_clip,
)

CASES, CLIENTS = 10_000, 1_000
ITEMS, VIEWS, WIDTH, EPOCHS, SLOTS = 7, 2, 3, 4, 4
BOUNDS = np.geomspace(1e-3, 1e3, CASES // CLIENTS)
FALSE_ALARM = 1e-6
# Of a standard normal statistic, two-sided.
LIMIT = stats.norm.isf(FALSE_ALARM / 2)


def sizes(rng, clients):
    """float32 [K]: factors of an upload's length, from 1e-12 to 1e12, some of them 0."""
    found = 10 ** rng.uniform(-12, 12, clients)
    found[::50] = 0
    return found.astype(np.float32)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def head(rng, clients):
    """Leaves of very different sizes: the bound is on their joint length."""
    return {
        "kernel": normal(rng, clients, 3) * sizes(rng, clients)[:, None],
        "bias": normal(rng, clients) * sizes(rng, clients),
    }


def slots(rng, clients):
    """Uploads of the gathered plan."""
    item = np.argsort(rng.random((clients, ITEMS)), axis=1)[:, :SLOTS].astype(np.int32)
    rows = normal(rng, clients, SLOTS, VIEWS, WIDTH) * sizes(rng, clients)[:, None, None, None]
    return SlotUploads(
        item=item,
        rows_of_views=rows,
        head=head(rng, clients),
        scale=np.float32(1.0),
        num_items=ITEMS,
        whole=False,
    )


def low_rank(rng, clients):
    """Uploads of the dense plan."""
    flat, size = VIEWS * WIDTH, sizes(rng, clients)
    return LowRankUploads(
        residual=normal(rng, EPOCHS, clients, ITEMS) * size[:, None],
        query=normal(rng, EPOCHS, clients, flat),
        positive=normal(rng, clients, ITEMS) * size[:, None],
        pull=normal(rng, clients, flat),
        head=head(rng, clients),
        scale=np.ones(clients, np.float32),
        views=(VIEWS, WIDTH),
        product=functools.partial(jnp.einsum, precision="highest"),
    )


def joined(rng, clients):
    """Uploads of two buckets."""
    return JoinedUploads.of([low_rank(rng, clients // 2), slots(rng, clients - clients // 2)])


def lengths(uploads):
    """float64 [K]: the joint lengths, from all numbers."""
    whole = jax.tree.leaves(jax.device_get(uploads.rows()))
    square = lambda x: np.sum(np.square(x.astype(np.float64).reshape(len(x), -1)), axis=1)
    return np.sqrt(sum(map(square, whole)))


def cohort(clients):
    zeros = np.zeros(clients, np.int32)
    return Cohort(
        histories=Histories(client=zeros, item=zeros[:, None], count=zeros),
        responded=jnp.ones(clients, bool),
        local_epochs=zeros,
        weight=np.ones(clients, np.float32),
    )


@pytest.mark.parametrize("make", [slots, low_rank, joined])
def test_no_upload_is_longer_than_the_bound(make):
    """10,000 uploads of each form: jointly over all leaves, whatever the sizes of the leaves."""
    rng, shortened = np.random.default_rng(0), 0
    for bound in BOUNDS:
        uploads, clip = make(rng, CLIENTS), fixed_clip(float(bound))
        norms = uploads.norms()
        factor, clipped = clip.weigh(norms, cohort(CLIENTS), clip.init())
        factor, clipped, norms = np.asarray(factor), np.asarray(clipped), np.asarray(norms)
        # As the server measures it: one unit in the last place, of the product.
        above = np.nextafter(np.float32(bound), np.float32(np.inf))
        assert (factor * norms <= above).all()
        # The same in float64: the rounding of the norm, a sum of 46 float32 squares at most.
        before, after = lengths(uploads), lengths(uploads.scaled(jnp.asarray(factor)))
        assert (after <= bound * (1 + 2e-6)).all()
        inside = before < bound * (1 - 2e-6)
        assert (factor[inside] == 1).all() and not clipped[inside].any()
        outside = before > bound * (1 + 2e-6)
        assert clipped[outside].all() and (after[outside] >= bound * (1 - 2e-6)).all()
        shortened += clipped.sum()
    assert 0.1 * CASES < shortened < 0.95 * CASES


def million(noise, seed=0, weight=(1.0,), rounds=1):
    """[rounds, 1000 rows, 1000 numbers] of noise on zeros, in a unit of its deviation."""
    upload = Upload(jnp.zeros((1000, 10, 96)), {"head": jnp.zeros((1000, 40))})
    state, found = noise.init(upload), []
    for number in range(rounds):
        key = jax.random.fold_in(jax.random.key(seed), number)
        noisy, state = noise.next(key, upload, jnp.asarray(weight), 3.0, state)
        flat = [np.asarray(x, np.float64).reshape(1000, -1) for x in jax.tree.leaves(noisy)]
        found.append(np.concatenate(flat, axis=1))
    return np.stack(found)


def check_normal(values):
    """Moments and the Kolmogorov-Smirnov test of standard Gaussians."""
    size = values.size
    assert abs(values.mean()) < LIMIT / size**0.5
    # The deviations of the estimates, for Gaussians: sqrt(2 / n), sqrt(6 / n), sqrt(24 / n).
    assert abs(values.var() - 1) < LIMIT * (2 / size) ** 0.5
    assert abs(stats.skew(values, axis=None)) < LIMIT * (6 / size) ** 0.5
    assert abs(stats.kurtosis(values, axis=None)) < LIMIT * (24 / size) ** 0.5
    assert stats.kstest(values.ravel(), "norm").pvalue > FALSE_ALARM


def check_independent(rows):
    """The correlations of all pairs of 1000 rows [1000, n], and their greatest."""
    size = rows.shape[1]
    pairs = np.corrcoef(rows)[np.triu_indices(len(rows), 1)] * size**0.5
    assert abs(pairs.mean()) < LIMIT / len(pairs) ** 0.5
    assert abs(pairs).max() < stats.norm.isf(FALSE_ALARM / 2 / len(pairs)) * 1.02


NOISES = {
    "central": (central_noise(2.0, 30.0), 2.0 * 3.0 / 30.0),
    # Three clients of weights 1/2, 1/4, 1/4, each with 2 * 3.
    "client": (client_noise(2.0), 6.0 * (0.25 + 0.125) ** 0.5),
}


@pytest.mark.parametrize("name", NOISES)
def test_a_million_numbers_of_noise(name):
    noise, deviation = NOISES[name]
    values = million(noise, weight=[0.5, 0.25, 0.25])[0] / deviation
    check_normal(values)
    check_independent(values)
    check_independent(values.T)


@pytest.mark.parametrize("name", NOISES)
def test_the_order_of_the_cohort_changes_no_bit_of_the_noise(name):
    noise, _ = NOISES[name]
    found = [million(noise, weight=order) for order in ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25])]
    np.testing.assert_array_equal(*found)


def test_rounds_are_independent_or_as_the_bands_say():
    """The covariance of ten rounds of 1e6 numbers, against C^-1 C^-T in float64."""
    for noise, bands in ((central_noise(2.0, 30.0), 1), (None, 3)):
        coefficients = band_coefficients(bands)
        noise = noise or banded_noise(2.0, 30.0, coefficients)
        rounds = million(noise, seed=1, rounds=10).reshape(10, -1) / 0.2
        column = np.pad(coefficients, (0, 10 - bands))
        strategy = sum(np.diag(np.full(10 - k, column[k]), -k) for k in range(10))
        inverse = np.linalg.inv(strategy)
        expected = inverse @ inverse.T
        found = rounds @ rounds.T / rounds.shape[1]
        spread = np.sqrt(np.outer(np.diag(expected), np.diag(expected)) * 2 / rounds.shape[1])
        assert (np.abs(found - expected) < 1.1 * LIMIT * spread).all()
