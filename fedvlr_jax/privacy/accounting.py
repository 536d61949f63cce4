"""The differential privacy event of a run, and its epsilon, by dp-accounting.

A `Release` says what one round publishes: a noisy sum over a sampled cohort. `event` gives the
event of dp-accounting, and `epsilon` evaluates it. Exchanges before the first round are Gaussians
over all clients, composed with the rounds.

| sampler | event of one round | relation | accountants |
|---|---|---|---|
| everyone | Gaussian(z) | add or remove one | exact, RDP |
| poisson | PoissonSampled(q, Gaussian(z)); with places for fewer than all clients, TruncatedSubsampledGaussian | add or remove one | PLD, RDP |
| banded | PoissonSampled(b q, Gaussian(z)), ceil(T / b) rounds | add or remove one | PLD, RDP |
| fixed | SampledWithoutReplacement(n of N, Gaussian(z / 2)) | replace one | RDP |
| local | Gaussian, no amplification | replace one | exact, RDP |
| distributed | zCDP(1 / (2 z^2)), no amplification | zero out one | RDP |

Guarantees and traps:
- z is the standard deviation of the noise over the L2 bound of ONE upload. Replacing a user moves
  a sum by up to twice that bound. The PLD accountant doubles the sensitivity of a Gaussian for
  REPLACE_ONE. The RDP accountant does not, so we give it z / 2.
- With b bands a user's uploads meet columns of C of length 1 without a common row. T rounds are
  then as private as ceil(T / b) rounds with independent noise (Choquette-Choo et al. 2023,
  on amplification by sampling; `amplified_bandmf_event` of JAX Privacy).
- Rounds of an unsampled Gaussian compose to one Gaussian, whose epsilon is known exactly (Balle &
  Wang 2018). We report this value as PLD, because the PLD accountant only approximates it from
  above, and takes minutes for a large epsilon.
- A sum of n discrete Gaussians of deviation s is as private as one Gaussian of s sqrt(n), except
  for 10 n exp(-pi^2 s^2) (Kairouz et al. 2021, Theorem 1 and its tau): below 1e-60 if s is 4 levels
  or more, which `uplink.ring` requires. The server knows the sampled clients: no amplification.
- dp-accounting has no RDP event for a truncated Poisson sample. With p the chance that a round's
  sample exceeds its places, the truncated run differs from the untruncated one with a probability
  of at most T p. An untruncated bound (epsilon, delta') therefore holds for it with
  delta = delta' + (1 + e^epsilon) T p; `epsilon` solves for delta'.
"""  # noqa: E501 (rows of a table)

from __future__ import annotations

import functools
import importlib.metadata
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import dp_accounting
from dp_accounting import pld, rdp

from fedvlr_jax.errors import InputError
from fedvlr_jax.privacy.release import Release

# dp-accounting logs every RDP order that it omits; the bound holds without them.
logging.getLogger("absl").addFilter(lambda record: "dp_accounting" not in record.pathname)

Relation = dp_accounting.NeighboringRelation
# Samplers whose event only the RDP accountant has.
RDP_ONLY = ("fixed", "distributed")
# With more noise training learns nothing; a target that needs more is refused.
MOST_NOISE = 1e4
# Relative tolerance of a calibrated noise multiplier.
TOLERANCE = 1e-3
# Steps to the fixed point of a truncated sample; it needs this many where delta hardly suffices.
MOST_STEPS = 200


def relation(release: Release) -> Any:
    """The neighbouring relation under which the release is accounted."""
    if release.sampler == "distributed":
        return Relation.REPLACE_SPECIAL
    replaces = release.sampler in ("fixed", "local")
    return Relation.REPLACE_ONE if replaces else Relation.ADD_OR_REMOVE_ONE


class Epsilon(NamedTuple):
    """Epsilon by each accountant; None if it has no event for the release.

    Attributes:
      pld: by privacy loss distributions, or exact for an unsampled Gaussian.
      rdp: by Renyi differential privacy.
    """

    pld: float | None
    rdp: float | None

    @property
    def best(self) -> float:
        """The smaller one: both are upper bounds."""
        return min(x for x in self if x is not None)


def library() -> str:
    """The accountant's name and version."""
    return f"dp-accounting {importlib.metadata.version('dp-accounting')}"


def event(
    release: Release, multiplier: float, rounds: int, *, truncated: bool = True
) -> dp_accounting.DpEvent:
    """The `DpEvent` of the exchanges and of `rounds` rounds.

    Args:
      multiplier: z, the standard deviation of the noise over the bound on one upload.
      truncated: whether a Poisson sample is truncated to the places.
    """
    exchanges = _exchanges_event(release)
    if rounds == 0:
        return exchanges
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    one = gaussian
    if release.sampler == "poisson" and truncated and release.places < release.population:
        one = dp_accounting.TruncatedSubsampledGaussianDpEvent(
            release.population, release.probability, release.places, multiplier
        )
    elif release.sampler in ("poisson", "banded"):
        # A user can be in one of b rounds in a row, and C has b bands with columns of length 1.
        rounds = math.ceil(rounds / release.bands)
        one = dp_accounting.PoissonSampledDpEvent(release.probability, gaussian)
    elif release.sampler == "distributed":
        one = dp_accounting.ZCDpEvent(0.5 / multiplier**2)
    elif release.sampler == "fixed":
        halved = dp_accounting.GaussianDpEvent(multiplier / 2)
        one = dp_accounting.SampledWithoutReplacementDpEvent(
            release.population, release.cohort, halved
        )
    trained = dp_accounting.SelfComposedDpEvent(one, rounds)
    if not release.exchanges:
        return trained
    return dp_accounting.ComposedDpEvent([exchanges, trained])


def _exchanges_event(release: Release) -> dp_accounting.DpEvent:
    """The `DpEvent` of the exchanges; a `NoOpDpEvent` without them."""
    if not release.exchanges:
        return dp_accounting.NoOpDpEvent()
    z = release.exchange_multiplier
    # As for rounds: replacing a user moves a sum by twice the bound, so RDP gets half of z.
    one = dp_accounting.GaussianDpEvent(z / 2 if release.sampler == "fixed" else z)
    return dp_accounting.SelfComposedDpEvent(one, release.exchanges)


def _unsampled(release: Release, multiplier: float, rounds: int) -> float:
    """The multiplier of the one Gaussian that unsampled rounds and the exchanges compose to."""
    precision = rounds / multiplier**2
    if release.exchanges:
        precision += release.exchanges / release.exchange_multiplier**2
    return precision**-0.5


@functools.lru_cache(maxsize=512)
def _pld(release: Release, multiplier: float, rounds: int, delta: float) -> float | None:
    if release.sampler in RDP_ONLY:
        return None
    if release.sampler in ("everyone", "local") or rounds == 0:
        own = multiplier / 2 if release.sampler == "local" else multiplier
        one = _unsampled(release, own, rounds)
        return float(dp_accounting.get_epsilon_gaussian(one, delta))
    accountant = pld.PLDAccountant(relation(release))
    accountant.compose(event(release, multiplier, rounds))
    return float(accountant.get_epsilon(delta))


@functools.lru_cache(maxsize=512)
def _rdp(release: Release, multiplier: float, rounds: int, delta: float) -> float | None:
    # See the module's docstring: a replaced user, and the truncation.
    own = multiplier / 2 if release.sampler == "local" else multiplier
    accountant = rdp.RdpAccountant(neighboring_relation=relation(release))
    accountant.compose(event(release, own, rounds, truncated=False))
    differs, value = rounds * release.overflow, float(accountant.get_epsilon(delta))
    if not differs:
        return value
    for _ in range(MOST_STEPS):
        # Fixed point from below: a larger epsilon leaves less delta, which raises epsilon.
        left = delta - (1 + math.exp(min(value, 700.0))) * differs
        if left <= 0:
            return None
        before, value = value, float(accountant.get_epsilon(left))
        if math.isclose(before, value, rel_tol=1e-9):
            return value
    # Below the fixed point nothing is a bound.
    return None


def epsilon(release: Release, multiplier: float, rounds: int, delta: float) -> Epsilon:
    """Upper bounds of epsilon of the exchanges and `rounds` rounds at `delta`, by PLD and by RDP.

    Edge cases: no rounds and no exchanges cost 0; a multiplier of 0 costs infinity.
    """
    if rounds == 0 and not release.exchanges:
        return Epsilon(0.0, 0.0)
    if multiplier == 0 or (release.exchanges and release.exchange_multiplier == 0):
        return Epsilon(math.inf, math.inf)
    of = release, multiplier, rounds, delta
    return Epsilon(_pld(*of), _rdp(*of))


def _tight(release: Release) -> Callable[[Release, float, int, float], float | None]:
    """The accountant for budgets: PLD if it has an event, else RDP."""
    return _rdp if release.sampler in RDP_ONLY else _pld


def spent(release: Release, multiplier: float, rounds: int, delta: float) -> float:
    """The epsilon that is compared with a budget: by PLD if it has an event, else by RDP."""
    if rounds == 0 and not release.exchanges:
        return 0.0
    value = _tight(release)(release, multiplier, rounds, delta)
    assert value is not None
    return value


@functools.lru_cache(maxsize=64)
def calibrate_exchanges(release: Release, target: float, delta: float, share: float) -> float:
    """The least multiplier of the exchanges with which they alone spend at most this share of the
    target; above the exact value by a relative 1e-3 at most.

    Raises:
      InputError: no multiplier up to MOST_NOISE is enough.
    """
    at = lambda z: release._replace(exchange_multiplier=z)
    fits = lambda z: spent(at(z), 1.0, 0, delta) <= share * target
    if not fits(MOST_NOISE):
        raise InputError(
            f"--target_epsilon={target}: the exchanges before the first round exceed it with any "
            f"noise up to {MOST_NOISE:g}; give a larger target, or --init=random"
        )
    return _crossing(fits, 1e-2, MOST_NOISE)


@functools.lru_cache(maxsize=64)
def calibrate(release: Release, rounds: int, target: float, delta: float) -> float:
    """The least noise multiplier with which the rounds stay within the target; above the exact
    value by a relative 1e-3 at most.

    Raises:
      InputError: no multiplier up to MOST_NOISE is enough.
    """
    if spent(release, MOST_NOISE, rounds, delta) > target:
        raise InputError(
            f"--target_epsilon={target}: {rounds} rounds with --target_delta={delta} exceed it "
            f"with any noise multiplier up to {MOST_NOISE:g}; give a larger target or fewer "
            "--rounds"
        )
    # RDP is much cheaper than PLD and close to it, so its result is the start of the search.
    whole = release._replace(places=release.population)

    def cheap(z: float) -> bool:
        value = _rdp(whole, z, rounds, delta)
        return value is not None and value <= target

    start = _crossing(cheap, 1e-2, MOST_NOISE) if cheap(MOST_NOISE) else MOST_NOISE
    if release.sampler in RDP_ONLY:
        return start
    value = _search(whole, rounds, target, delta, start)
    # If the places suffice, truncation changes nothing, and its PLD takes seconds.
    if release != whole and spent(release, value, rounds, delta) > target:
        value = _search(release, rounds, target, delta, value)
    return value


def _crossing(fits: Callable[[float], bool], low: float, high: float) -> float:
    """Where `fits` becomes true between `low` and `high`, by bisection of the logarithm."""
    while high / low > 1 + TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _search(release: Release, rounds: int, target: float, delta: float, start: float) -> float:
    """The least multiplier that stays within the target; the search begins at `start`."""
    fits = lambda z: spent(release, z, rounds, delta) <= target
    low = high = start
    if fits(start):
        while fits(low := low / 1.15):
            high = low
    else:
        while not fits(high := min(1.15 * high, MOST_NOISE)):
            low = high
    return _crossing(fits, low, high)


@functools.lru_cache(maxsize=64)
def affordable(
    release: Release, multiplier: float, target: float, delta: float, planned: int
) -> int:
    """The maximum number of rounds, at most `planned`, whose epsilon does not exceed the target.

    0 if the exchanges alone exceed it.
    """
    fits = lambda rounds: spent(release, multiplier, rounds, delta) <= target
    if fits(planned):
        return planned
    low, high = 0, planned
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
