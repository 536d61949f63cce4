"""Everything that can be chosen, as frozen dataclasses validated when built.

Each field carries its help text; the command-line flags are made from these fields, so
that a choice has one name, one default and one explanation.

A group of fields a file; `Config` holds the groups and checks what they say together.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from fedvlr_jax.config.aliases import ALIASES, with_current_names
from fedvlr_jax.config.attack import ATTACK_NAMES, AttackConfig
from fedvlr_jax.config.data import (
    DATA_ROOT,
    DUPLICATE_NAMES,
    SPLIT_NAMES,
    SYNTHETIC_KINDS,
    DataConfig,
)
from fedvlr_jax.config.evaluation import EvaluationConfig
from fedvlr_jax.config.federation import AGGREGATION_NAMES, SUMS, FederationConfig
from fedvlr_jax.config.fields import check_choice, expanded
from fedvlr_jax.config.fleet import FleetConfig
from fedvlr_jax.config.init import InitConfig
from fedvlr_jax.config.model import BACKBONE_NAMES, FUSION_NAMES, ModelConfig
from fedvlr_jax.config.privacy import PrivacyConfig
from fedvlr_jax.config.run import RunConfig
from fedvlr_jax.errors import InputError

__all__ = [
    "AGGREGATION_NAMES",
    "ALIASES",
    "ATTACK_NAMES",
    "BACKBONE_NAMES",
    "DATA_ROOT",
    "DUPLICATE_NAMES",
    "FUSION_NAMES",
    "RESUMABLE_FLAGS",
    "SPLIT_NAMES",
    "SYNTHETIC_KINDS",
    "AttackConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "FederationConfig",
    "FleetConfig",
    "InitConfig",
    "ModelConfig",
    "PrivacyConfig",
    "RunConfig",
    "check_choice",
    "expanded",
    "with_current_names",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run: the groups above. Raises InputError for what cannot be combined."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    federation: FederationConfig = dataclasses.field(default_factory=FederationConfig)
    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    privacy: PrivacyConfig = dataclasses.field(default_factory=PrivacyConfig)
    attack: AttackConfig = dataclasses.field(default_factory=AttackConfig)
    fleet: FleetConfig = dataclasses.field(default_factory=FleetConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def __post_init__(self):
        self._check_hostile()
        self._check_buffer()
        if self.fleet.has_clock and self.federation.sampling == "poisson":
            raise InputError(
                "--sampling=poisson: a simulated clock decides who takes part; give "
                "--sampling=fixed"
            )
        privacy, rule = self.privacy, self.federation.aggregation
        if privacy.privacy != "none":
            self._check_private()
            return
        if privacy.noise_multiplier and privacy.noise == "central" and rule != "fixed_mean":
            raise InputError(
                f"--noise=central: --aggregation={rule} has no fixed bound on what one client "
                "changes; use --aggregation=fixed_mean"
            )
        if privacy.noise_multiplier and privacy.noise == "client" and rule not in SUMS:
            raise InputError(
                f"--noise_multiplier={privacy.noise_multiplier}: the noise of the clients is drawn "
                f"as the noise of their sum, which --aggregation={rule} does not take; use one of "
                f"{', '.join(SUMS)}"
            )

    def _check_hostile(self) -> None:
        """Refuses hostile clients that the rule cannot withstand, and what forged or compressed
        uploads do not go with."""
        rule, share = self.federation.aggregation, self.attack.hostile_share
        smaller = self.fleet.compression
        if smaller and rule not in SUMS:
            raise InputError(
                f"{smaller}: --aggregation={rule} does not commute with the compression; use one "
                f"of {', '.join(SUMS)}"
            )
        if smaller and self.attack.attack != "none":
            raise InputError(f"{smaller}: forged uploads are not compressed; give 0")
        if self.privacy.noise_multiplier and (self.fleet.upload_bits or self.fleet.upload_rows):
            raise InputError(
                f"{smaller}: the noise of the clients is drawn as the noise of their sum, which "
                "was not compressed; give --noise_multiplier=0"
            )
        share /= 1 + share
        most = {"bulyan": 0.25, "norm_bound": 1.0}.get(rule, 1.0 if rule in SUMS else 0.5)
        if self.attack.attack != "none" and share >= most:
            raise InputError(
                f"--hostile_share={self.attack.hostile_share}: {share:.0%} of all clients, and "
                f"--aggregation={rule} withstands less than {most:.0%}; give a share below "
                f"{most / (1 - most):.2g}"
            )

    def _check_buffer(self) -> None:
        """Refuses what asynchronous rounds do not go with."""
        if not self.fleet.buffer:
            return
        federation, privacy = self.federation, self.privacy
        flag = f"--buffer={self.fleet.buffer}"
        if not federation.cohort:
            raise InputError(f"{flag}: needs --cohort, the clients that train at a time")
        if self.run.store != "device":
            raise InputError(f"{flag}: works with --store=device, not --store={self.run.store}")
        if federation.aggregation not in SUMS:
            raise InputError(
                f"{flag}: uploads of several versions are summed, which --aggregation="
                f"{federation.aggregation} does not do; use one of {', '.join(SUMS)}"
            )
        if self.attack.attack != "none":
            raise InputError(
                f"{flag}: the attacks are defined for synchronous rounds; give --attack=none or "
                "--buffer=0"
            )
        if privacy.privacy != "none" or privacy.noise_multiplier:
            raise InputError(
                f"{flag}: no privacy statement and no noise is defined for stale uploads; give "
                "--privacy=none --noise_multiplier=0"
            )

    def _check_private(self) -> None:
        """Refuses combinations with --privacy whose rounds have no bounded sensitivity."""
        privacy, federation = self.privacy, self.federation
        if self.attack.attack != "none":
            raise InputError(
                f"--privacy={privacy.privacy}: --attack={self.attack.attack} forges uploads after "
                "they were clipped, so that no bound holds; give one or the other"
            )
        if smaller := self.fleet.compression:
            raise InputError(
                f"--privacy={privacy.privacy}: {smaller} has no entry in the ledger; give 0"
            )
        if self.fleet.has_clock:
            raise InputError(
                f"--privacy={privacy.privacy}: who is available on a simulated clock is no "
                "sampling that can be accounted; use --participation=always without --deadline_s "
                "and --over_selection"
            )
        if federation.aggregation != "fixed_mean":
            raise InputError(
                f"--privacy={privacy.privacy}: with --aggregation={federation.aggregation} what "
                "one client changes depends on the others; use --aggregation=fixed_mean"
            )
        if privacy.noise_cohort_size and not (
            privacy.privacy == "central" and federation.sampling == "poisson"
        ):
            raise InputError(
                f"--noise_cohort_size={privacy.noise_cohort_size}: stands for a Poisson cohort "
                "under central privacy; give --privacy=central --sampling=poisson, or 0"
            )
        if 0 < privacy.noise_cohort_size < federation.cohort:
            raise InputError(
                f"--noise_cohort_size={privacy.noise_cohort_size}: fewer than "
                f"--cohort={federation.cohort}"
            )

    @property
    def flat(self) -> dict[str, Any]:
        """{flag name: value} over all groups."""
        return {k: v for group in dataclasses.asdict(self).values() for k, v in group.items()}

    @property
    def workdir(self) -> str:
        """--workdir, or the folder named after the main choices."""
        name = (
            f"{self.data.dataset}-{self.evaluation.protocol}-{self.model.backbone}-"
            f"{self.model.fusion}-seed{self.run.seed}"
        )
        return self.run.workdir or f"runs/{name}"

    @classmethod
    def from_flat(cls, **values: Any) -> Config:
        """Builds a config out of flag names, e.g. Config.from_flat(dataset="KU", rounds=50).

        Earlier names of flags (`ALIASES`) are accepted.
        """
        values, groups = with_current_names(values), {}
        for group in dataclasses.fields(cls):
            kind: Any = group.default_factory
            names = {field.name for field in dataclasses.fields(kind)}
            groups[group.name] = kind(**{n: values.pop(n) for n in names & values.keys()})
        if values:
            known = ", ".join(sorted(cls().flat))
            raise InputError(f"unknown option {', '.join(sorted(values))}; known are {known}")
        return cls(**groups)


RESUMABLE_FLAGS = frozenset(
    field.name
    for group in dataclasses.fields(Config)
    for field in dataclasses.fields(getattr(Config(), group.name))
    if field.metadata["resumable"]
)
