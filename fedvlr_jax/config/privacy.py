"""Clipping, noise and the privacy statement."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError

PRIVACY_NAMES = ("none", "central", "local", "distributed")
# Flags that need a privacy statement.
_OF_STATEMENT = ("target_epsilon", "noise_cohort_size", "population")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """Clipping, noise and the privacy statement; docs/privacy.md describes them."""

    privacy: str = choice(
        "none",
        "Differential privacy of the whole run. none: no privacy statement; central: a trusted "
        "server adds the noise once to the sum; local: each client adds noise to its own upload; "
        "distributed: each client adds a share of discrete noise inside a secure sum. All but "
        "none state (epsilon, delta) and keep a ledger, each run of a sweep its own. The epsilons "
        "of runs on the same data with different seeds add up.",
        PRIVACY_NAMES,
    )
    target_epsilon: float = choice(
        0.0,
        "Privacy budget. Without --noise_multiplier it sets the noise for the planned --rounds. "
        "With --noise_multiplier training stops before it exceeds the budget.",
    )
    target_delta: float = choice(
        1e-5, "Delta of the privacy statement. It must be below 1 / users."
    )
    noise_cohort_size: int = choice(
        0,
        "privacy=central, sampling=poisson: number of clients per round of a larger deployment. "
        "0: the statement describes this run. Above 0: the noise and the statement are those of "
        "the deployment.",
    )
    population: int = choice(
        0, "Number of users of the deployment of --noise_cohort_size. 0: the users of the data set."
    )
    honest_share: float = choice(
        1.0,
        "privacy=distributed: share of the responding clients whose noise counts. The others may "
        "reveal their noise to the server.",
    )
    clip_norm: float = choice(
        0.0, "Bound on the joint L2 norm of one client's upload in a round. 0: no clipping."
    )
    clip_quantile: float = choice(
        0.0,
        "0: the bound stays at --clip_norm. Above 0: the bound starts at --clip_norm and follows "
        "this quantile of the upload norms.",
    )
    noise_multiplier: float = choice(
        0.0, "Standard deviation of the Gaussian noise, as a multiple of the clipping bound."
    )
    noise_bands: int = choice(
        1,
        "privacy=central, sampling=poisson: number of bands of the matrix that correlates the "
        "noise of the rounds (banded matrix factorisation). As many groups of clients take turns. "
        "1: independent noise.",
    )
    noise: str = choice(
        "client",
        "Place of the noise without --privacy. client: each client adds noise to its upload; "
        "central: the server adds noise once to the sum, which it divides by the expected number "
        "of clients (--aggregation=fixed_mean). --privacy overrides this flag.",
        ("client", "central"),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, "clip_norm", 0)
        check_range(self, "noise_multiplier", 0)
        check_range(self, "target_epsilon", 0)
        for name in ("noise_cohort_size", "population"):
            check_range(self, name, 0)
        check_range(self, "noise_bands", 1)
        self._check_bands()
        self._check_statement()
        if not 0 < self.honest_share <= 1:
            raise InputError(
                f"--honest_share={self.honest_share}: give a share above 0 and at most 1"
            )
        if self.honest_share < 1 and self.privacy != "distributed":
            raise InputError(
                f"--honest_share={self.honest_share}: needs --privacy=distributed, where clients "
                "protect each other"
            )
        if not 0 <= self.clip_quantile < 1:
            raise InputError(
                f"--clip_quantile={self.clip_quantile}: give a share above 0 and below 1, or 0 for "
                "a fixed bound"
            )
        if self.clip_quantile > 0 and self.clip_norm == 0:
            raise InputError(
                f"--clip_quantile={self.clip_quantile}: needs --clip_norm above 0 as the first "
                "bound"
            )
        if self.noise_multiplier > 0 and self.clip_norm == 0:
            raise InputError(
                f"--noise_multiplier={self.noise_multiplier}: needs --clip_norm above 0, because "
                "noise protects only bounded uploads"
            )

    def _check_bands(self) -> None:
        """Refuses options that noise which is correlated over the rounds does not support."""
        flag = f"--noise_bands={self.noise_bands}"
        if self.noise_bands == 1:
            return
        if self.privacy != "central":
            raise InputError(f"{flag}: needs --privacy=central, where the server adds the noise")
        if self.clip_quantile:
            raise InputError(
                f"{flag}: needs a fixed bound, but --clip_quantile={self.clip_quantile} moves it; "
                "give 0"
            )
        if self.noise_cohort_size:
            raise InputError(
                f"{flag}: has no statement about the deployment of --noise_cohort_size="
                f"{self.noise_cohort_size}; give 0"
            )

    def _check_statement(self) -> None:
        """Refuses flags of the statement without one, and statements that lack a flag."""
        if self.privacy == "none":
            given = {name: getattr(self, name) for name in _OF_STATEMENT if getattr(self, name)}
            for name, value in given.items():
                raise InputError(f"--{name}={value}: needs --privacy=central, local or distributed")
            return
        if not 0 < self.target_delta < 1:
            raise InputError(f"--target_delta={self.target_delta}: give a number between 0 and 1")
        if not (self.target_epsilon or self.noise_multiplier):
            raise InputError(
                f"--privacy={self.privacy}: give --target_epsilon, which sets the noise, or "
                "--noise_multiplier"
            )
        if not self.clip_norm:
            raise InputError(
                f"--privacy={self.privacy}: needs --clip_norm above 0, the bound on an upload"
            )
        by_clients = self.privacy in ("local", "distributed")
        if by_clients and self.noise == "central":
            raise InputError(
                f"--privacy={self.privacy}: the clients add the noise; give --noise=client"
            )
        if by_clients and self.clip_quantile:
            raise InputError(
                f"--privacy={self.privacy}: with --clip_quantile={self.clip_quantile} the server "
                "learns the bound from the clients; give 0, a fixed bound"
            )
        if self.population and not self.noise_cohort_size:
            raise InputError(
                f"--population={self.population}: needs --noise_cohort_size, the number of "
                "clients per round of the deployment"
            )
