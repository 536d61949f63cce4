"""Hostile clients."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError

ATTACK_NAMES = (
    "none",
    "honest",
    *("sign_flip", "scaling", "label_flip", "not_a_number", "alie", "ipm", "ua_fedrec"),
    *("spattack", "cluster", "a_ra", "a_hum", "fedrec", "pieck_ipe", "pieck_uea"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Hostile clients beside the honest ones; docs/robustness.md describes the attacks."""

    attack: str = choice(
        "none",
        "What the hostile clients do; none: there are none; honest: they do not attack.",
        ATTACK_NAMES,
    )
    hostile_share: float = choice(
        0.05, "Hostile clients, as a share of the honest ones; at least one client."
    )
    target_items: str = choice(
        "cold",
        "cold: targets are drawn from the tenth of the items with the fewest train interactions; "
        "popular: from the tenth with the most.",
        ("cold", "popular"),
    )
    num_targets: int = choice(1, "Items that the hostile clients promote.")
    attack_strength: float = choice(
        1.0,
        "Length of a forged upload, in units of what the hostile clients train themselves; the "
        "factor of sign_flip and ipm, a tenth of that of scaling, the deviations of ua_fedrec.",
    )
    attack_seed: int = choice(0, "Seed of targets, hostile histories and public interactions.")

    def __post_init__(self):
        check_fields(self)
        check_range(self, "num_targets", 1)
        check_range(self, "attack_strength", 0)
        check_range(self, "attack_seed", 0)
        if not 0 < self.hostile_share <= 1:
            raise InputError(
                f"--hostile_share={self.hostile_share}: give a share above 0 and at most 1"
            )
