"""Epsilon against published numbers, and against dp-accounting called by hand."""

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting import pld, rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax.errors import InputError
from fedvlr_jax.privacy import accounting
from fedvlr_jax.privacy.accounting import affordable, calibrate, epsilon
from fedvlr_jax.privacy.release import Release, places_for
from tests.conftest import mostly_slow

REPLACE = dp.NeighboringRelation.REPLACE_ONE


def poisson(q, size=1_000_000, places=None):
    return Release("poisson", size, round(q * size), size if places is None else places)


# The numbers that PLD and RDP give for these runs elsewhere, to four digits.
ORACLES = [
    (poisson(0.01), 4.0, 10_000, 1e-5, 0.9470, 1.0355),
    (Release("poisson", 60_000, 250, 60_000), 1.3, 3600, 1e-5, 0.8530, 0.9422),
    (poisson(0.1), 1.0, 100, 1e-4, 5.9659, 6.8216),
    (Release("everyone", 1000, 1000, 1000), 1.0, 1, 1e-5, 4.3772, 4.7285),
    (Release("poisson", 1000, 100, 100), 1.0, 100, 1e-4, 21.7339, None),
]


@pytest.mark.parametrize(("release", "z", "rounds", "delta", "by_pld", "by_rdp"), ORACLES)
def test_oracles(release, z, rounds, delta, by_pld, by_rdp):
    found = epsilon(release, z, rounds, delta)
    assert found.pld == pytest.approx(by_pld, abs=5e-5)
    assert found.rdp is None if by_rdp is None else found.rdp == pytest.approx(by_rdp, abs=5e-5)


@pytest.mark.parametrize(
    ("q", "z", "rounds", "expected"),
    [(0.01, 4.0, 10_000, 1.2586), (250 / 60_000, 1.3, 3600, 1.1799)],
)
def test_the_classic_conversion_of_the_same_orders(q, z, rounds, expected):
    """Abadi et al. 2016 and TF-Privacy's tutorial: rdp + log(1 / delta) / (order - 1)."""
    release = Release("poisson", 60_000, round(q * 60_000), 60_000)
    orders = np.arange(2, 200)
    deltas = []
    for order in orders:
        accountant = rdp.RdpAccountant(orders=[float(order)])
        accountant.compose(accounting.event(release, z, rounds))
        # Of one order: epsilon = rdp + log1p(-1/a) - log(delta a) / (a - 1), (Balle et al. 2020).
        tight = accountant.get_epsilon(1e-5)
        own = tight - np.log1p(-1 / order) + np.log(1e-5 * order) / (order - 1)
        deltas.append(own + np.log(1e5) / (order - 1))
    assert min(deltas) == pytest.approx(expected, abs=5e-5)


def test_the_analytic_gaussian():
    found = epsilon(Release("everyone", 10, 10, 10), 1.0, 1, 1e-5)
    assert found.pld == pytest.approx(dp.get_epsilon_gaussian(1.0, 1e-5), abs=1e-6)


CELLS = [
    (sampler, q, rounds, z)
    for sampler in ("poisson", "fixed", "everyone", "local")
    for q in (0.01, 0.1)
    for rounds in (1, 30, 1000)
    for z in (0.8, 1.5, 4.0, 20.0)
]


# For each sampler and q: each z and each number of rounds once at least.
@pytest.mark.parametrize(("sampler", "q", "rounds", "z"), mostly_slow(CELLS, 3))
def test_rdp_cells(sampler, q, rounds, z):
    n = 1000
    by_hand = {
        "poisson": dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(z)),
        "fixed": dp.SampledWithoutReplacementDpEvent(n, round(q * n), dp.GaussianDpEvent(z / 2)),
        "everyone": dp.GaussianDpEvent(z),
        "local": dp.GaussianDpEvent(z / 2),
    }[sampler]
    relation = REPLACE if sampler in ("fixed", "local") else dp.NeighboringRelation(1)
    accountant = rdp.RdpAccountant(neighboring_relation=relation)
    accountant.compose(dp.SelfComposedDpEvent(by_hand, rounds))
    ours = accounting._rdp(Release(sampler, n, round(q * n), n), z, rounds, 1e-4)
    assert ours == accountant.get_epsilon(1e-4)


PLD_CELLS = [
    (sampler, z, rounds)
    for sampler in ("poisson", "everyone", "local")
    for z in (3.0, 8.0, 30.0)
    for rounds in (1, 10, 100)
]


@pytest.mark.parametrize(("sampler", "z", "rounds"), mostly_slow(PLD_CELLS, 4))
def test_pld_cells(sampler, z, rounds):
    by_hand = dp.GaussianDpEvent(z)
    if sampler == "poisson":
        by_hand = dp.PoissonSampledDpEvent(0.1, by_hand)
    relation = REPLACE if sampler == "local" else dp.NeighboringRelation(1)
    accountant = pld.PLDAccountant(relation)
    accountant.compose(dp.SelfComposedDpEvent(by_hand, rounds))
    ours = accounting._pld(Release(sampler, 1000, 100, 1000), z, rounds, 1e-4)
    # Exact where nothing is sampled, which PLD approximates.
    assert accountant.get_epsilon(1e-4) == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize(
    ("bands", "rounds", "composed"), [(1, 100, 100), (4, 100, 25), (4, 97, 25)]
)
def test_bands_are_fewer_rounds_of_a_larger_sample(bands, rounds, composed):
    """With one band it is Poisson sampling; with four the sample is four times as likely."""
    release = Release("banded", 1000, 25, 1000, bands=bands)
    found = epsilon(release, 1.5, rounds, 1e-4)
    for name, kind in (("pld", pld.PLDAccountant), ("rdp", rdp.RdpAccountant)):
        event = dp.PoissonSampledDpEvent(0.025 * bands, dp.GaussianDpEvent(1.5))
        accountant = kind().compose(event, composed)
        assert getattr(found, name) == pytest.approx(accountant.get_epsilon(1e-4), rel=1e-9)
    if bands == 1:
        assert found == epsilon(poisson(0.025, 1000), 1.5, rounds, 1e-4)


def test_bands_of_whole_groups_are_gaussians():
    """40 rounds in 4 groups that are sampled whole: 10 Gaussians, as one of 2 / sqrt(10)."""
    found = epsilon(Release("banded", 1000, 250, 1000, bands=4), 2.0, 40, 1e-5)
    exact = dp.get_epsilon_gaussian(2 / 10**0.5, 1e-5)
    assert found.pld == pytest.approx(exact, rel=1e-4) and exact < found.rdp < 1.2 * exact


EXCHANGES = dict(exchanges=3, exchange_multiplier=5.0)


def test_exchanges_and_unsampled_rounds_are_one_gaussian():
    """3 / 5^2 + 4 / 2^2 = 1.12: a Gaussian of 1.12^-1/2; the exchanges alone one of 5 / sqrt(3)."""
    release = Release("everyone", 1000, 1000, 1000, **EXCHANGES)
    found = epsilon(release, 2.0, 4, 1e-5)
    assert found.pld == pytest.approx(dp.get_epsilon_gaussian(1.12**-0.5, 1e-5), rel=1e-9)
    alone = epsilon(release, 2.0, 0, 1e-5)
    assert alone.pld == pytest.approx(dp.get_epsilon_gaussian(5 / 3**0.5, 1e-5), rel=1e-9)
    assert found.pld < found.rdp < 1.2 * found.pld and alone.pld < alone.rdp < 1.3 * alone.pld


@pytest.mark.parametrize("sampler", ["poisson", "fixed"])
def test_exchanges_are_composed_with_sampled_rounds(sampler):
    """By hand: everyone is in each exchange, whoever is sampled in the rounds."""
    fixed = sampler == "fixed"
    relation = REPLACE if fixed else dp.NeighboringRelation(1)
    rounds = dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(2.0))
    if fixed:
        rounds = dp.SampledWithoutReplacementDpEvent(1000, 100, dp.GaussianDpEvent(1.0))
    release = Release(sampler, 1000, 100, 1000, **EXCHANGES)
    found = epsilon(release, 2.0, 30, 1e-4)
    for name, kind in (("pld", pld.PLDAccountant), ("rdp", rdp.RdpAccountant)):
        if fixed and name == "pld":
            assert found.pld is None
            continue
        accountant = kind(neighboring_relation=relation)
        accountant.compose(dp.GaussianDpEvent(2.5 if fixed else 5.0), 3)
        accountant.compose(rounds, 30)
        assert getattr(found, name) == pytest.approx(accountant.get_epsilon(1e-4), rel=1e-9)


@pytest.mark.parametrize(
    "sampler",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("poisson", "fixed")] + ["everyone"],
)
def test_the_target_holds_with_the_exchanges(sampler):
    release = Release(sampler, 10_000, 500, 10_000, exchanges=3)
    z = accounting.calibrate_exchanges(release, 2.0, 1e-5, 0.5)
    release = release._replace(exchange_multiplier=z)
    assert 0.99 < accounting.spent(release, 1.0, 0, 1e-5) <= 1.0
    z = calibrate(release, 50, 2.0, 1e-5)
    assert 1.97 < accounting.spent(release, z, 50, 1e-5) <= 2.0
    without = release._replace(exchanges=0, exchange_multiplier=0.0)
    assert accounting.spent(without, z, 50, 1e-5) < 1.9
    assert accounting.affordable(release, z, 2.0, 1e-5, 100) in range(50, 52)
    assert accounting.affordable(release, z, 0.5, 1e-5, 100) == 0


def test_trap_replacing_doubles_the_sensitivity_in_pld_alone():
    """If dp-accounting changes this, `_rdp` and the module's table must change."""
    gaussian = dp.GaussianDpEvent(1.0)
    by = lambda kind, event: kind(neighboring_relation=REPLACE).compose(event).get_epsilon(1e-5)
    assert by(pld.PLDAccountant, gaussian) == pytest.approx(9.99726, abs=1e-4)
    assert by(rdp.RdpAccountant, gaussian) == pytest.approx(4.72851, abs=1e-4)
    ours = epsilon(Release("local", 10, 10, 10), 1.0, 1, 1e-5)
    assert ours.pld == pytest.approx(9.99726, abs=1e-4)
    # RDP is an upper bound of the same thing.
    assert ours.pld < ours.rdp < 1.2 * ours.pld


def test_trap_pld_ignores_the_count_of_randomised_response():
    """The reason why nothing here is accounted as randomised response."""
    answer = dp.RandomizedResponseDpEvent(0.5, 2)
    ten = pld.PLDAccountant(REPLACE).compose(answer, 10).get_epsilon(1e-5)
    assert ten == pld.PLDAccountant(REPLACE).compose(answer, 1).get_epsilon(1e-5)


def test_a_fixed_cohort_is_not_poisson():
    poisson_ = epsilon(poisson(0.1, 1000), 1.0, 100, 1e-4)
    fixed = epsilon(Release("fixed", 1000, 100, 1000), 1.0, 100, 1e-4)
    assert fixed.pld is None and fixed.rdp > 8 * poisson_.pld


@pytest.mark.slow
def test_places_that_suffice_cost_nothing_and_others_do():
    at = lambda places: epsilon(Release("poisson", 1000, 100, places), 1.0, 100, 1e-4)
    assert at(150).pld == pytest.approx(5.9660, abs=5e-5)
    ample = at(places_for(1000, 100))
    assert ample.pld == pytest.approx(5.9659, abs=5e-5)
    assert ample.rdp == pytest.approx(6.8216, abs=1e-3)
    assert at(100).rdp is None


def test_rdp_of_a_truncated_sample_pays_for_the_truncation():
    """delta = delta' + (1 + e^epsilon) T p, with p = P(Binomial(1000, .1) > 160) by hand."""
    release = Release("poisson", 1000, 100, 160)
    p = release.overflow
    assert 1e-9 < p < 1e-8
    found = accounting._rdp(release, 2.0, 100, 1e-4)
    left = 1e-4 - (1 + np.exp(found)) * 100 * p
    accountant = rdp.RdpAccountant()
    accountant.compose(accounting.event(release, 2.0, 100, truncated=False))
    assert accountant.get_epsilon(left) == pytest.approx(found, rel=1e-6)
    assert found > accountant.get_epsilon(1e-4)


def test_rdp_of_a_truncated_sample_is_a_bound_where_delta_hardly_suffices():
    """Or there is none: near the least delta the search for the fixed point takes many steps."""
    release = Release("poisson", 1000, 100, 160)
    accountant = rdp.RdpAccountant()
    accountant.compose(accounting.event(release, 2.0, 100, truncated=False))
    low, high = 1e-7, 1e-4
    while high / low > 1 + 1e-7:
        middle = np.sqrt(low * high)
        none = accounting._rdp(release, 2.0, 100, middle) is None
        low, high = (middle, high) if none else (low, middle)
    for delta in high * (1 + np.array([0, 1e-6, 1e-4, 1e-2])):
        found = accounting._rdp(release, 2.0, 100, delta)
        left = delta - (1 + np.exp(found)) * 100 * release.overflow
        assert accountant.get_epsilon(left) <= found * (1 + 1e-6)


@pytest.mark.parametrize("target", mostly_slow([0.5, 2.0], 2))
@pytest.mark.parametrize("sampler", ["poisson", "fixed", "everyone", "local"])
def test_calibration_is_the_least_noise_that_fits(sampler, target):
    release = Release(sampler, 10_000, 500, 10_000)
    z = calibrate(release, 50, target, 1e-5)
    assert accounting.spent(release, z, 50, 1e-5) <= target
    assert accounting.spent(release, z / 1.002, 50, 1e-5) > target


@pytest.mark.slow
def test_calibration_with_places():
    release = Release("poisson", 1000, 100, 172)
    assert epsilon(release, calibrate(release, 5, 3.0, 1e-4), 5, 1e-4).pld <= 3.0
    # Too few places need more noise than a whole Poisson sample.
    tight = Release("poisson", 1000, 100, 100)
    assert calibrate(tight, 5, 3.0, 1e-4) > 1.05 * calibrate(release, 5, 3.0, 1e-4)


def test_a_target_that_no_noise_reaches():
    with pytest.raises(InputError, match=r"target_epsilon=1e-06: 500 rounds .* exceed it"):
        calibrate(poisson(0.1), 500, 1e-6, 1e-5)


@settings(max_examples=10, deadline=None)
@given(st.floats(2.0, 30.0), st.floats(0.1, 6.0))
def test_affordable_rounds_fit_and_one_more_does_not(z, target):
    release = Release("everyone", 1000, 1000, 1000)
    rounds = affordable(release, z, target, 1e-5, 60)
    assert accounting.spent(release, z, rounds, 1e-5) <= target
    assert rounds == 60 or accounting.spent(release, z, rounds + 1, 1e-5) > target


def test_edge_cases():
    release = poisson(0.1)
    assert epsilon(release, 1.0, 0, 1e-5) == (0.0, 0.0)
    assert epsilon(release, 0.0, 5, 1e-5).best == np.inf


@pytest.mark.parametrize("sampler", mostly_slow(["distributed", "fixed"], 2))
def test_the_least_noise_is_found_where_the_most_noise_costs_nothing(sampler):
    """At delta 1e-3 the most noise has an epsilon of exactly 0."""
    release = Release(sampler, 100, 40, 100)
    assert accounting.spent(release, accounting.MOST_NOISE, 6, 1e-3) == 0
    z = accounting.calibrate(release, 6, 20.0, 1e-3)
    assert 0.99 * 20.0 < accounting.spent(release, z, 6, 1e-3) <= 20.0
