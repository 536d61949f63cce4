"""Clipping, noise, and the privacy statement."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError

PRIVACY_NAMES = ("none", "central", "local", "distributed")
# Flags that say nothing without a statement.
_OF_STATEMENT = ("target_epsilon", "noise_cohort_size", "population")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What protects an upload."""

    privacy: str = choice(
        "none",
        "none: no statement; central: a trusted server adds the noise once to the sum; local: each "
        "client adds it to its own upload; distributed: each client adds a share of discrete noise "
        "inside a secure sum. With a statement (epsilon, delta) of the whole run, and "
        "a ledger of what was spent.",
        PRIVACY_NAMES,
    )
    target_epsilon: float = choice(
        0.0,
        "The budget. Alone, it sets the noise for the planned --rounds; with --noise_multiplier, "
        "training stops before the budget is passed.",
    )
    target_delta: float = choice(1e-5, "The chance that epsilon does not hold; below 1 / users.")
    noise_cohort_size: int = choice(
        0,
        "privacy=central, sampling=poisson: the noise is that of a deployment with so many clients "
        "a round, and the statement is about it; 0: about this run.",
    )
    population: int = choice(
        0, "Users of the deployment that --noise_cohort_size stands for; 0: those of the data set."
    )
    honest_share: float = choice(
        1.0,
        "privacy=distributed: the share of the answering clients whose noise counts; the others "
        "may tell the server theirs.",
    )
    clip_norm: float = choice(
        0.0, "Joint L2 bound of one client's upload in a round; 0 does not clip."
    )
    clip_quantile: float = choice(
        0.0,
        "Above 0: the bound starts at --clip_norm and follows this quantile of the uploads' norms.",
    )
    noise_multiplier: float = choice(
        0.0, "Standard deviation of the Gaussian noise, in units of the bound on an upload."
    )
    noise: str = choice(
        "client",
        "client: each client adds the noise to its upload; central: the server adds it once to the "
        "sum, divided by the number of expected clients (--aggregation=fixed_mean). --privacy "
        "decides it for itself.",
        ("client", "central"),
    )

    def __post_init__(self):
        check_fields(self)
        check_range(self, "clip_norm", 0)
        check_range(self, "noise_multiplier", 0)
        check_range(self, "target_epsilon", 0)
        for name in ("noise_cohort_size", "population"):
            check_range(self, name, 0)
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
                "a bound that stays"
            )
        if self.clip_quantile > 0 and self.clip_norm == 0:
            raise InputError(
                f"--clip_quantile={self.clip_quantile}: needs --clip_norm above 0, the first bound"
            )
        if self.noise_multiplier > 0 and self.clip_norm == 0:
            raise InputError(
                f"--noise_multiplier={self.noise_multiplier}: needs --clip_norm above 0, "
                "for without a bound the noise protects nothing"
            )

    def _check_statement(self) -> None:
        """Refuses flags of --privacy that have no statement."""
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
                f"--privacy={self.privacy}: needs --clip_norm above 0, the bound on one upload"
            )
        by_clients = self.privacy in ("local", "distributed")
        if by_clients and self.noise == "central":
            raise InputError(
                f"--privacy={self.privacy}: the clients add the noise; give --noise=client"
            )
        if by_clients and self.clip_quantile:
            raise InputError(
                f"--privacy={self.privacy}: --clip_quantile={self.clip_quantile} is a bound that "
                "the server learns from the clients; give 0, a bound that stays"
            )
        if self.population and not self.noise_cohort_size:
            raise InputError(
                f"--population={self.population}: needs --noise_cohort_size, the clients of its "
                "rounds"
            )
