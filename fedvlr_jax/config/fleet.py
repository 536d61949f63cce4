"""The clients' devices and the simulated clock."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """The clients' devices and the simulated clock; docs/fleet.md describes them."""

    participation: str = choice(
        "always",
        "Availability of the clients. always: at any time; uniform: each with probability "
        "--available_share, drawn in each round; diurnal: in sessions by day and night, as in a "
        "published trace; trace: in the sessions of --trace. Every value but always runs a "
        "simulated clock; --deadline_s and --over_selection do too.",
        ("always", "uniform", "diurnal", "trace"),
    )
    available_share: float = choice(
        0.5, "participation=uniform: share of the clients that are available."
    )
    trace: str = choice(
        "",
        "participation=trace: CSV file of sessions with columns client,start,end, in seconds.",
        path=True,
    )
    over_selection: float = choice(
        1.0,
        "The server samples this many times --cohort clients. The round ends after --cohort "
        "uploads, and the server discards the other uploads.",
    )
    deadline_s: float = choice(
        0.0,
        "Simulated seconds after which a round ends. The server discards later uploads. 0: no "
        "deadline.",
    )
    pause_s: float = choice(0.0, "Simulated seconds between two rounds. Needs a simulated clock.")
    speed_activity_correlation: float = choice(
        0.0, "Correlation between a device's speed and its user's activity, in [-1, 1]."
    )
    upload_format: str = choice(
        "dense",
        "Format that sets the size and time of an upload. dense: every row; sparse: touched rows "
        "with their numbers; bitmask: touched rows and one bit for every row.",
        ("dense", "sparse", "bitmask"),
    )
    upload_rank: int = choice(
        0,
        "0: clients upload the whole gradient. Above 0: clients multiply the gradient of each "
        "item by a basis of this many columns, which all clients of a round share (CoLR).",
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
                f"--pause_s={self.pause_s:g}: needs a simulated clock; give also --participation, "
                "--deadline_s or --over_selection"
            )
        if (self.participation == "trace") != bool(self.trace):
            raise InputError(
                f"--trace={self.trace}: --participation=trace needs a file, and no other value "
                "reads one; give both or neither"
            )

    @property
    def has_clock(self) -> bool:
        """Whether a simulated clock chooses the clients of a round."""
        plain = self.participation == "always" and self.over_selection == 1
        return not plain or self.deadline_s > 0
