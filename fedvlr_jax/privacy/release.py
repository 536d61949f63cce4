"""The release of a private run: the noisy sums of its rounds, and of the exchanges before them."""

from __future__ import annotations

from typing import NamedTuple

from fedvlr_jax.config import Config, FederationConfig


class Release(NamedTuple):
    """A noisy sum over the cohort of one round, and the noisy sums before the first round.

    Attributes:
      sampler: how a round samples its cohort.
        "everyone": all clients.
        "poisson": each client independently, with the same probability.
        "fixed": exactly `cohort` clients, without replacement.
        "banded": as poisson, from one of `bands` groups of clients; the groups take turns.
        "local": each upload is a release, so the sampling does not count.
        "distributed": a secure sum. The server knows the sampled clients, so the sampling does not
          count.
      population: N, the users of the statement.
      cohort: expected clients of a round; for the sampler "fixed" the exact number.
      places: maximum clients of a round; N for no truncation.
      bands: of the matrix that correlates the noise; 1 for independent rounds.
      exchanges: sums over all clients before the first round, for --init=spectral and ease.
      exchange_multiplier: standard deviation of their noise over the bound on one answer.
    """

    sampler: str
    population: int
    cohort: int
    places: int
    bands: int = 1
    exchanges: int = 0
    exchange_multiplier: float = 0.0

    @property
    def probability(self) -> float:
        """q, the probability that a round which samples a user's group includes the user."""
        return self.bands * self.cohort / self.population

    @property
    def overflow(self) -> float:
        """The probability that the sample of a round exceeds its places."""
        if self.sampler != "poisson" or self.places >= self.population:
            return 0.0
        from scipy import stats  # The import takes a second.

        return float(stats.binom.sf(self.places, self.population, self.probability))


def places_of(federation: FederationConfig, num_users: int) -> int:
    """The maximum clients of a Poisson cohort: --cohort_places, or `places_for` if it is 0."""
    chosen = federation.cohort_places or places_for(num_users, federation.cohort)
    return min(chosen, num_users)


def places_for(population: int, cohort: int) -> int:
    """The places that a Poisson cohort exceeds with a probability below 1e-12."""
    from scipy import stats

    return min(population, int(stats.binom.isf(1e-12, population, cohort / population)) + 1)


def release_of(config: Config, num_users: int) -> Release:
    """The release of a round of `config`, with --privacy=central, local or distributed."""
    federation, privacy = config.federation, config.privacy
    cohort = federation.cohort or num_users
    if privacy.privacy in ("local", "distributed"):
        return Release(privacy.privacy, num_users, cohort, num_users)
    population = privacy.population or num_users
    if privacy.noise_cohort_size:
        return Release("poisson", population, privacy.noise_cohort_size, population)
    if privacy.noise_bands > 1:
        found = Release("banded", num_users, cohort, num_users, bands=privacy.noise_bands)
    elif cohort >= num_users:
        found = Release("everyone", num_users, num_users, num_users)
    elif federation.sampling == "fixed":
        found = Release("fixed", num_users, cohort, num_users)
    else:
        found = Release("poisson", num_users, cohort, places_of(federation, num_users))
    if config.init.init not in ("spectral", "ease"):
        return found
    # All of --init=ease follows from one noisy sum.
    exchanges = 1 if config.init.init == "ease" else config.init.init_exchanges
    multiplier = config.init.init_noise_multiplier
    return found._replace(exchanges=exchanges, exchange_multiplier=multiplier)
