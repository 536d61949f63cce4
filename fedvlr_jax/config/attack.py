"""Hostile clients."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError
from fedvlr_jax.registry import ATTACKS, described

ATTACK_NAMES = ("none", *ATTACKS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Hostile clients beside the honest ones; docs/robustness.md describes the attacks."""

    attack: str = choice(
        "none",
        f"Attack of the hostile clients. none: there are no hostile clients; {described(ATTACKS)}.",
        ATTACK_NAMES,
    )
    hostile_share: float = choice(
        0.05,
        "Number of hostile clients, as a share of the honest ones. There is at least one.",
    )
    target_items: str = choice(
        "cold",
        "Pool of the target items. cold: the tenth of the items with the fewest train "
        "interactions; popular: the tenth with the most.",
        ("cold", "popular"),
    )
    num_targets: int = choice(1, "Number of items that the hostile clients promote.")
    attack_strength: float = choice(
        1.0,
        "Norm of a forged upload, relative to the uploads that the hostile clients train. For "
        "sign_flip and ipm it is the factor, for scaling a tenth of the factor, for ua_fedrec the "
        "number of standard deviations.",
    )
    attack_seed: int = choice(
        0,
        "Seed of the targets, the hostile histories, the public interactions, and the imagined "
        "users of a_ra and a_hum.",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, "num_targets", 1)
        check_range(self, "attack_strength", 0)
        check_range(self, "attack_seed", 0)
        if not 0 < self.hostile_share <= 1:
            raise InputError(
                f"--hostile_share={self.hostile_share}: give a share above 0 and at most 1"
            )
