"""The rounds of --aggregation=secure: their clients, the ring of their sums, and their cost."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.fleet.transfer import Shape
from fedvlr_jax.privacy.release import places_of
from fedvlr_jax.privacy.secure_sum import Cost, cost, neighbours_for
from fedvlr_jax.uplink.discrete_gaussian import LEAST_DEVIATION, MOST_DEVIATION
from fedvlr_jax.uplink.ring import MOST_LEVELS, Ring

# The bound on one number if neither --secure_bound nor --clip_norm gives one.
DEFAULT_BOUND = 8.0
# The deviation of a client's noise with --secure_levels=0, in levels.
AIMED_DEVIATION = 1024.0
# Room for the noise of the sum, in its standard deviations.
NOISE_REACH = 10


def least_answers(threshold: float, sampled: Any) -> Any:
    """The number of `sampled` clients, an int or an int32 array, that must respond to a secure sum.

    The threshold is rounded up to thousandths, so that the comparison is one of integers.
    """
    thousandths = math.ceil(1000 * threshold - 1e-6)
    return thousandths * (sampled // 1000) + (thousandths * (sampled % 1000) + 999) // 1000


class SecureCohort(NamedTuple):
    """The clients of a round of secure sums.

    Attributes:
      most: maximum clients of a round.
      least: minimum number of answers; with fewer the round aborts.
      shares: the number of clients whose noise the guarantee uses: the honest clients among the
        `least` answers.
    """

    most: int
    least: int
    shares: int


def secure_cohort(config: Config, num_users: int) -> SecureCohort:
    """The clients of a round of `config`, with --aggregation=secure.

    Raises:
      InputError: the guarantee could use the noise of no client.
    """
    federation = config.federation
    cohort = federation.cohort or num_users
    most = places_of(federation, num_users) if federation.sampling == "poisson" else cohort
    least = least_answers(federation.secure_threshold, cohort)
    shares = math.floor(config.privacy.honest_share * least + 1e-6)
    if not shares:
        raise InputError(
            f"--honest_share={config.privacy.honest_share}: gives no honest client among the "
            f"{least} required answers; give a larger share, or a larger --cohort"
        )
    return SecureCohort(most, least, shares)


def ring_of(config: Config, num_users: int) -> Ring:
    """The ring of --aggregation=secure. The sum over the maximum clients of a round fits 32 bits.

    With --privacy=distributed every client adds discrete Gaussian noise of deviation z S / sqrt(n),
    n = `SecureCohort.shares`. The noise of n clients equals central noise of z S.

    Raises:
      InputError: the levels or the noise do not fit the ring.
    """
    federation, privacy = config.federation, config.privacy
    cohort = secure_cohort(config, num_users)
    clip = privacy.clip_norm if not privacy.clip_quantile else 0.0
    distributed = privacy.privacy == "distributed"
    bound = federation.secure_bound or clip or DEFAULT_BOUND
    # Of one client, in units of the bound on a coordinate.
    noise = 0.0
    if distributed:
        noise = privacy.noise_multiplier * privacy.clip_norm / bound / math.sqrt(cohort.shares)
    room = (2**31 - 1) / (cohort.most + NOISE_REACH * math.sqrt(cohort.most) * noise)
    most = min(MOST_LEVELS, int(room), int(MOST_DEVIATION / noise) if noise else MOST_LEVELS)
    levels = _levels(federation.secure_levels // 2, most, cohort, noise)
    deviation = noise * levels
    if distributed and deviation < LEAST_DEVIATION:
        fewest = 2 * math.ceil(LEAST_DEVIATION / noise)
        raise InputError(
            f"--secure_levels={2 * levels}: a client's noise has a deviation of {deviation:.2g} "
            f"levels, but the accounting holds from {LEAST_DEVIATION:g} levels on; give at least "
            f"{fewest} levels, more noise, or a smaller cohort"
        )
    return Ring(bound, levels, deviation)


def secure_cost(config: Config, num_users: int, shape: Shape) -> tuple[int, Cost]:
    """(neighbours of each client, bytes of one client in one round and its rounds of messages).

    Args:
      shape: of an upload. The client masks and sends every number.
    """
    cohort = secure_cohort(config, num_users)
    neighbours = neighbours_for(cohort.most, config.federation.secure_threshold)
    return neighbours, cost(shape.items * shape.row + shape.head, neighbours)


def _levels(given: int, most: int, cohort: SecureCohort, noise: float) -> int:
    if given > most:
        with_noise = " with this noise" if noise else ""
        raise InputError(
            f"--secure_levels={2 * given}: the secure sum of {cohort.most} clients{with_noise} "
            f"overflows 32 bits or the noise's table; give at most {2 * most} levels, or 0 for as "
            "many as fit"
        )
    if given:
        return given
    if most < 1:
        raise InputError(
            f"--aggregation=secure: the sum of {cohort.most} clients overflows 32 bits with any "
            "levels; give a smaller --cohort"
        )
    if noise:
        return max(1, min(most, int(AIMED_DEVIATION / noise)))
    return 1 << int(math.log2(most))
