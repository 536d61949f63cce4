"""All options of a run, as frozen dataclasses that validate themselves when built.

Each field carries its help text. The command-line flags are made from these fields, so an option
has one name, one default and one explanation.

Each file holds one group of fields. `Config` holds the groups and checks their combinations.
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
from fedvlr_jax.config.defense import DefenseConfig
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
    "DefenseConfig",
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
    """All options of one run. Raises InputError for options that cannot be combined."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    federation: FederationConfig = dataclasses.field(default_factory=FederationConfig)
    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    privacy: PrivacyConfig = dataclasses.field(default_factory=PrivacyConfig)
    attack: AttackConfig = dataclasses.field(default_factory=AttackConfig)
    defense: DefenseConfig = dataclasses.field(default_factory=DefenseConfig)
    fleet: FleetConfig = dataclasses.field(default_factory=FleetConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def __post_init__(self):
        if self.federation.aggregation == "auto":
            chosen = dataclasses.replace(self.federation, aggregation=self._chosen_aggregation)
            object.__setattr__(self, "federation", chosen)
        self._check_hostile()
        self._check_secure()
        self._check_buffer()
        hidden = self.federation.aggregation == "secure" or self.privacy.privacy != "none"
        self.fleet.check_download(self.federation.negatives, hidden=hidden)
        if self.fleet.has_clock and self.federation.sampling == "poisson":
            raise InputError(
                "--sampling=poisson: the simulated clock chooses the clients; give --sampling=fixed"
            )
        privacy, rule = self.privacy, self.federation.aggregation
        if privacy.privacy != "none":
            self._check_private()
            return
        if privacy.noise_multiplier and privacy.noise == "central" and rule != "fixed_mean":
            raise InputError(
                f"--noise=central: --aggregation={rule} does not bound the influence of one "
                "client; use --aggregation=fixed_mean"
            )
        if privacy.noise_multiplier and privacy.noise == "client" and rule not in SUMS:
            raise InputError(
                f"--noise_multiplier={privacy.noise_multiplier}: the simulator draws the clients' "
                f"noise once, for their sum, and --aggregation={rule} does not sum; use one of "
                f"{', '.join(SUMS)}"
            )

    @property
    def _chosen_aggregation(self) -> str:
        """The rule that --aggregation=auto chooses."""
        privacy = self.privacy
        if privacy.privacy == "distributed":
            return "secure"
        central = bool(privacy.noise_multiplier) and privacy.noise == "central"
        return "fixed_mean" if central or privacy.privacy != "none" else "float32"

    def _check_secure(self) -> None:
        """Refuses options that a secure sum does not support."""
        if self.federation.aggregation != "secure":
            return
        if self.attack.attack != "none":
            raise InputError(
                f"--aggregation=secure: --attack={self.attack.attack} needs a server that sees "
                "each upload, but a secure sum shows only the sum; give another rule"
            )
        if self.fleet.upload_format != "dense":
            raise InputError(
                f"--aggregation=secure: masks are on every row, so --upload_format="
                f"{self.fleet.upload_format} saves nothing; give dense"
            )
        if self.fleet.has_clock and not self.federation.cohort:
            raise InputError(
                "--aggregation=secure: with a simulated clock --secure_threshold is a share of "
                "--cohort; give --cohort"
            )
        if self.privacy.noise_multiplier and self.privacy.privacy == "none":
            raise InputError(
                f"--noise_multiplier={self.privacy.noise_multiplier}: noise inside "
                "--aggregation=secure is discrete and has a statement; give --privacy=distributed"
            )

    def _check_hostile(self) -> None:
        """Refuses more hostile clients than the rule withstands, and options that forged or
        compressed uploads do not support."""
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
                f"{smaller}: the simulator draws the clients' noise for their sum, which is not "
                "compressed; give --noise_multiplier=0"
            )
        share /= 1 + share
        most = {"bulyan": 0.25, "norm_bound": 1.0}.get(rule, 1.0 if rule in SUMS else 0.5)
        if self.attack.attack != "none" and share >= most:
            raise InputError(
                f"--hostile_share={self.attack.hostile_share}: {share:.0%} of all clients are "
                f"hostile, but --aggregation={rule} withstands less than {most:.0%}; give a share "
                f"below {most / (1 - most):.2g}"
            )

    def _check_buffer(self) -> None:
        """Refuses options that asynchronous rounds do not support."""
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
                f"{flag}: the server sums uploads of several versions, but --aggregation="
                f"{federation.aggregation} does not sum; use one of {', '.join(SUMS)}"
            )
        if self.defense.active:
            raise InputError(
                f"{flag}: clients on several versions of the server do not know the same popular "
                "items; give --defense_similarity=0 --defense_distance=0"
            )
        if self.attack.attack != "none":
            raise InputError(
                f"{flag}: the attacks are defined for synchronous rounds; give --attack=none or "
                "--buffer=0"
            )
        if privacy.privacy != "none" or privacy.noise_multiplier:
            raise InputError(
                f"{flag}: stale uploads have no privacy statement and no noise; give "
                "--privacy=none --noise_multiplier=0"
            )

    def _check_private(self) -> None:
        """Refuses combinations with --privacy whose rounds have no bounded sensitivity."""
        privacy, federation = self.privacy, self.federation
        if self.attack.attack != "none":
            raise InputError(
                f"--privacy={privacy.privacy}: --attack={self.attack.attack} forges uploads after "
                "clipping, so no bound holds; give only one of the two"
            )
        if smaller := self.fleet.compression:
            raise InputError(
                f"--privacy={privacy.privacy}: the ledger cannot account for {smaller}; give 0"
            )
        if self.fleet.has_clock:
            raise InputError(
                f"--privacy={privacy.privacy}: the ledger cannot account for the sampling of a "
                "simulated clock; use --participation=always without --deadline_s and "
                "--over_selection"
            )
        rule = "secure" if privacy.privacy == "distributed" else "fixed_mean"
        if federation.aggregation != rule:
            why = "the clients' noise protects only a secure sum"
            if privacy.privacy != "distributed":
                why = "the influence of one client depends on the others"
                if federation.aggregation == "secure":
                    why = "the noise is not discrete; --privacy=distributed has discrete noise"
            raise InputError(
                f"--privacy={privacy.privacy}: with --aggregation={federation.aggregation} {why}; "
                f"use --aggregation={rule}, or leave it out"
            )
        if privacy.noise_cohort_size and not (
            privacy.privacy == "central" and federation.sampling == "poisson"
        ):
            raise InputError(
                f"--noise_cohort_size={privacy.noise_cohort_size}: describes a Poisson cohort "
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
        """--workdir, or if that is empty a folder named after the main options."""
        name = (
            f"{self.data.dataset}-{self.evaluation.protocol}-{self.model.backbone}-"
            f"{self.model.fusion}-seed{self.run.seed}"
        )
        return self.run.workdir or f"runs/{name}"

    @classmethod
    def from_flat(cls, **values: Any) -> Config:
        """Builds a config from flag names, e.g. Config.from_flat(dataset="KU", rounds=50).

        Accepts earlier names of flags (`ALIASES`).

        Raises:
          InputError: an unknown name, an invalid value, or an invalid combination.
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
