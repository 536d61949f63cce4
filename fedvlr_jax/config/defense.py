"""Defences of the clients against forged uploads."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DefenseConfig:
    """Terms of the clients' loss against forged uploads; docs/robustness.md describes them."""

    defense_similarity: float = choice(
        0.0,
        "Weight of the term that makes a client's items resemble popular items (PIECK's defence, "
        "against alignment with popular items). Needs --plan=catalogue or gathered.",
    )
    defense_distance: float = choice(
        0.0,
        "Weight of the term that separates a client's private vector from popular items (PIECK's "
        "defence, against popular items in place of users). Needs a backbone with a private "
        "vector (fcf, pfedrec, fedrap), and --plan=catalogue or gathered.",
    )
    defense_items: int = choice(
        10, "Number of popular items of --defense_similarity and --defense_distance."
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, "defense_similarity", 0)
        check_range(self, "defense_distance", 0)
        check_range(self, "defense_items", 1)
        if self.defense_items != type(self).defense_items and not self.active:
            raise InputError(
                f"--defense_items={self.defense_items}: needs --defense_similarity or "
                "--defense_distance above 0"
            )

    @property
    def active(self) -> bool:
        """Whether the clients' loss has a term against forged uploads."""
        return self.defense_similarity > 0 or self.defense_distance > 0
