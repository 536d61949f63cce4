"""Clients as devices, and the simulated clock."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """Clients as devices, and the simulated clock; docs/fleet.md describes them."""

    participation: str = choice(
        "always",
        "When clients are available. always; uniform: each with --available_share, drawn per "
        "round; diurnal: sessions by day and night as in a published trace; trace: those of "
        "--trace. All but always run a simulated clock, and so do --deadline_s and "
        "--over_selection.",
        ("always", "uniform", "diurnal", "trace"),
    )
    available_share: float = choice(0.5, "participation=uniform: the share that is available.")
    trace: str = choice(
        "", "participation=trace: a CSV file of client,start,end in seconds.", path=True
    )
    over_selection: float = choice(
        1.0,
        "Clients asked, per upload of --cohort; the round ends when --cohort of them have "
        "reported, and the others worked in vain.",
    )
    deadline_s: float = choice(
        0.0, "Simulated seconds after which a round ends; later uploads do not count. 0: never."
    )
    pause_s: float = choice(
        0.0, "Simulated seconds between a round and the next; needs a simulated clock."
    )
    speed_activity_correlation: float = choice(
        0.0, "Correlation of a device's speed and its user's activity, in [-1, 1]."
    )
    upload_format: str = choice(
        "dense",
        "How uploads are counted and timed: dense, every row; sparse, touched rows with their "
        "numbers; bitmask, touched rows and a bit for every row.",
        ("dense", "sparse", "bitmask"),
    )

    upload_rank: int = choice(
        0,
        "Above 0: clients upload each item's gradient times a basis of so many columns, drawn for "
        "the round and shared by all (CoLR); 0: the whole gradient.",
    )

    def __post_init__(self):
        check_fields(self)
        check_range(self, "upload_rank", 0)
        check_range(self, "deadline_s", 0)
        check_range(self, "pause_s", 0)
        check_range(self, "over_selection", 1)
        check_range(self, "speed_activity_correlation", -1, 1)
        if not 0 < self.available_share <= 1:
            raise InputError(
                f"--available_share={self.available_share}: give a share above 0 and at most 1"
            )
        if self.pause_s and not self.has_clock:
            raise InputError(
                f"--pause_s={self.pause_s:g}: without a simulated clock there is no pause; give "
                "--participation, --deadline_s or --over_selection too"
            )
        if (self.participation == "trace") != bool(self.trace):
            raise InputError(
                f"--trace={self.trace}: goes with --participation=trace, and that needs it"
            )

    @property
    def has_clock(self) -> bool:
        """Whether a simulated clock decides who takes part."""
        plain = self.participation == "always" and self.over_selection == 1
        return not plain or self.deadline_s > 0
