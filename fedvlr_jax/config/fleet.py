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
        "--trace. All but always run a simulated clock, and so do --deadline_s, --over_selection "
        "and --buffer.",
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
        0.0,
        "Simulated seconds after which a round ends, or with --buffer a client's work; later "
        "uploads do not count. 0: never.",
    )
    pause_s: float = choice(
        0.0, "Simulated seconds between a round and the next; needs a simulated clock."
    )
    buffer: int = choice(
        0,
        "Uploads of a server step in asynchronous rounds (FedBuff): --cohort clients train at any "
        "time, each on the version that it downloaded. 0: synchronous rounds.",
    )
    max_staleness: int = choice(
        10,
        "buffer: the most server steps between the version that a client downloaded and the step "
        "that takes its upload; clients further behind are stopped. The server keeps so many old "
        "versions. 0: clients begin only at a server step.",
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

    upload_bits: int = choice(
        0,
        "2 to 16: clients upload the views' gradient in so many bits a number, rounded at random, "
        "with a scale for each row (QSGD); 0: in float32.",
    )
    upload_rows: int = choice(
        0,
        "Above 0: clients upload the rows of so many items, the longest ones, and keep the others "
        "for the next round (top-k with error feedback); needs --upload_format=sparse or bitmask. "
        "0: all rows.",
    )

    def __post_init__(self):
        check_fields(self)
        check_range(self, "upload_rank", 0)
        check_range(self, "upload_rows", 0)
        if self.upload_bits:
            check_range(self, "upload_bits", 2, 16)
        if self.upload_rows and self.upload_format == "dense":
            raise InputError(
                f"--upload_rows={self.upload_rows}: --upload_format=dense sends every row; give "
                "sparse or bitmask"
            )
        if self.upload_rank and (self.upload_bits or self.upload_rows):
            raise InputError(
                f"--upload_rank={self.upload_rank}: is not combined with --upload_bits and "
                "--upload_rows; give one or the other"
            )
        check_range(self, "deadline_s", 0)
        check_range(self, "pause_s", 0)
        check_range(self, "over_selection", 1)
        check_range(self, "buffer", 0)
        check_range(self, "max_staleness", 0)
        self._check_buffer()
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

    def _check_buffer(self) -> None:
        if not self.buffer:
            if self.max_staleness != type(self).max_staleness:
                raise InputError(
                    f"--max_staleness={self.max_staleness}: synchronous rounds have no stale "
                    "uploads; give --buffer too"
                )
            return
        if self.over_selection != 1:
            raise InputError(
                f"--buffer={self.buffer}: --over_selection={self.over_selection:g} is of "
                "synchronous rounds; raise --cohort, the clients that train at a time"
            )
        if self.pause_s:
            raise InputError(
                f"--buffer={self.buffer}: --pause_s={self.pause_s:g} is of synchronous rounds; "
                "asynchronous ones have no pause"
            )

    @property
    def compression(self) -> str:
        """The flags that make uploads smaller, as given; "" without any."""
        names = ("upload_rank", "upload_bits", "upload_rows")
        values = [(name, getattr(self, name)) for name in names]
        return " ".join(f"--{name}={value}" for name, value in values if value)

    @property
    def has_clock(self) -> bool:
        """Whether a simulated clock decides who takes part."""
        plain = self.participation == "always" and self.over_selection == 1
        return not plain or self.deadline_s > 0 or self.buffer > 0
