"""What a private run publishes about the clients: its rounds, and the exchanges before them."""

from __future__ import annotations

from typing import NamedTuple

from fedvlr_jax.config import Config, FederationConfig


class Release(NamedTuple):
    """A noisy sum over the cohort of one round, and the noisy sums before the first round.

    Attributes:
      sampler: "everyone"; "poisson", each client by itself; "fixed", so many without replacement;
        "banded", as poisson, but of one of `bands` groups of clients, which take turns; "local",
        every client's own upload, whoever is sampled; "distributed", a secure sum, of whoever is
        sampled.
      population: N, users that the statement is about.
      cohort: expected clients of a round; of sampler "fixed" the exact number.
      places: most clients that a round can take; N for no truncation.
      bands: of the matrix that correlates the noise; 1 for independent rounds.
      exchanges: sums over all clients before the first round, for --init=spectral.
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
        """q, the chance of one user to be in a round that samples its group."""
        return self.bands * self.cohort / self.population

    @property
    def overflow(self) -> float:
        """The chance that the sample of a round exceeds its places."""
        if self.sampler != "poisson" or self.places >= self.population:
            return 0.0
        from scipy import stats  # Takes a second to load; only private runs need it.

        return float(stats.binom.sf(self.places, self.population, self.probability))


def places_of(federation: FederationConfig, num_users: int) -> int:
    """The most clients of a Poisson cohort: --cohort_places, or `places_for` where it is 0."""
    chosen = federation.cohort_places or places_for(num_users, federation.cohort)
    return min(chosen, num_users)


def places_for(population: int, cohort: int) -> int:
    """Places of a Poisson cohort that overflow with a probability below 1e-12."""
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
    if config.init.init != "spectral":
        return found
    return found._replace(
        exchanges=config.init.init_exchanges,
        exchange_multiplier=config.init.init_noise_multiplier,
    )
