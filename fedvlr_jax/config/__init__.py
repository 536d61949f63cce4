"""All options of a run, as frozen dataclasses that validate themselves when built.

Each field carries its help text. The command-line flags are made from these fields, so an option
has one name, one default and one explanation.

Each file holds one group of fields. `Config` holds the groups and checks their combinations.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from fedvlr_jax.config.aliases import ALIASES, with_current_names
from fedvlr_jax.config.attack import ATTACK_NAMES, AttackConfig
from fedvlr_jax.config.automatic import automatic_aggregation, resolved
from fedvlr_jax.config.combinations import check_combinations
from fedvlr_jax.config.data import (
    DATA_ROOT,
    DUPLICATE_NAMES,
    PERMUTATIONS,
    SPLIT_NAMES,
    SYNTHETIC_KINDS,
    DataConfig,
)
from fedvlr_jax.config.defense import DefenseConfig
from fedvlr_jax.config.evaluation import EvaluationConfig
from fedvlr_jax.config.federation import AGGREGATION_NAMES, FederationConfig
from fedvlr_jax.config.fields import check_choice, expanded
from fedvlr_jax.config.fleet import FleetConfig
from fedvlr_jax.config.groups import GroupsConfig
from fedvlr_jax.config.init import InitConfig
from fedvlr_jax.config.model import BACKBONE_NAMES, FUSION_NAMES, ModelConfig
from fedvlr_jax.config.privacy import PrivacyConfig
from fedvlr_jax.config.run import RunConfig
from fedvlr_jax.config.unused import Unused, unused, unused_by_all
from fedvlr_jax.errors import InputError

__all__ = [
    "AGGREGATION_NAMES",
    "ALIASES",
    "ATTACK_NAMES",
    "BACKBONE_NAMES",
    "DATA_ROOT",
    "DUPLICATE_NAMES",
    "FUSION_NAMES",
    "PERMUTATIONS",
    "RESUMABLE_FLAGS",
    "RESUMABLE_WHEN_FINISHED",
    "SPLIT_NAMES",
    "SYNTHETIC_KINDS",
    "AttackConfig",
    "Config",
    "DataConfig",
    "DefenseConfig",
    "EvaluationConfig",
    "FederationConfig",
    "FleetConfig",
    "GroupsConfig",
    "InitConfig",
    "ModelConfig",
    "PrivacyConfig",
    "RunConfig",
    "Unused",
    "check_choice",
    "expanded",
    "unused",
    "unused_by_all",
    "with_current_names",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All options of one run, frozen; `from_flat` builds one from flag names.

    Attributes:
      data: which data set, and how it is split. model: backbone, fusion, views, width.
      federation: sampling of clients, local training, aggregation, the server's optimizer.
      init: the state before the first round. privacy: clipping, noise, the budget.
      attack, defense: hostile clients, and the clients' defence. groups: groups of clients.
      fleet: the simulated clock and the sizes of uploads. evaluation: protocol, metrics, patience.
      run: seed, folder, checkpoints, devices, memory.

    Raises:
      InputError: options that cannot be combined.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    federation: FederationConfig = dataclasses.field(default_factory=FederationConfig)
    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    privacy: PrivacyConfig = dataclasses.field(default_factory=PrivacyConfig)
    attack: AttackConfig = dataclasses.field(default_factory=AttackConfig)
    defense: DefenseConfig = dataclasses.field(default_factory=DefenseConfig)
    groups: GroupsConfig = dataclasses.field(default_factory=GroupsConfig)
    fleet: FleetConfig = dataclasses.field(default_factory=FleetConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        # Not a field: a config whose rule was chosen equals one whose rule was given.
        object.__setattr__(self, "_rule_is_chosen", self.federation.aggregation == "auto")
        if self.federation.aggregation == "auto":
            chosen = dataclasses.replace(
                self.federation, aggregation=automatic_aggregation(self.privacy)
            )
            object.__setattr__(self, "federation", chosen)
        check_combinations(self)

    @property
    def resolved(self) -> Config:
        """This config with a value in place of every `auto` of --init, and of the options that
        depend on it."""
        return resolved(self)

    @property
    def flat(self) -> dict[str, Any]:
        """{flag name: value} over all groups."""
        return {k: v for group in dataclasses.asdict(self).values() for k, v in group.items()}

    def changed(self, **values: Any) -> Config:
        """These options with other values, by flag name.

        A rule that --aggregation=auto chose is chosen again, for the new options.

        Raises:
          InputError: as `from_flat`.
        """
        current = self.flat
        if getattr(self, "_rule_is_chosen", False):
            current["aggregation"] = "auto"
        return self.from_flat(**{**current, **with_current_names(values)})

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
            raise InputError(_unknown(sorted(values), sorted(cls().flat)))
        return cls(**groups)


def _unknown(names: list[str], known: list[str]) -> str:
    """The message for unknown names: names that are alike, else all of them."""
    alike = [match for name in names for match in difflib.get_close_matches(name, known, 2)]
    rest = f"did you mean {' or '.join(alike)}?" if alike else f"known are {', '.join(known)}"
    return f"unknown option {', '.join(names)}; {rest}"


RESUMABLE_FLAGS = frozenset(
    field.name
    for group in dataclasses.fields(Config)
    for field in dataclasses.fields(getattr(Config(), group.name))
    if field.metadata["resumable"]
)
# A finished run of a folder of runs is not continued, so its length must be equal too.
RESUMABLE_WHEN_FINISHED = RESUMABLE_FLAGS - {"rounds", "patience"}
