"""The clients' devices and the simulated clock."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError
from fedvlr_jax.registry import AVAILABILITIES, described

UPLOAD_FORMATS = ("dense", "sparse", "bitmask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """The clients' devices and the simulated clock; docs/fleet.md describes them."""

    participation: str = choice(
        "always",
        f"Availability of the clients. {described(AVAILABILITIES)}. Every value but always runs a "
        "simulated clock; --deadline_s, --over_selection and --buffer do too.",
        tuple(AVAILABILITIES),
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
        "Simulated seconds after which a round ends, or with --buffer a client's work. The server "
        "discards later uploads. 0: no deadline.",
    )
    pause_s: float = choice(0.0, "Simulated seconds between two rounds. Needs a simulated clock.")
    buffer: int = choice(
        0,
        "0: synchronous rounds. Above 0: asynchronous rounds (FedBuff). The server steps after "
        "this many uploads; --cohort clients train at any time, each on the version that it "
        "downloaded.",
    )
    max_staleness: int = choice(
        10,
        "buffer: maximum number of server steps between a client's download and the step that "
        "takes its upload. The server stops clients that are further behind, and keeps this many "
        "old versions. 0: clients start only at a server step.",
    )
    speed_activity_correlation: float = choice(
        0.0, "Correlation between a device's speed and its user's activity, in [-1, 1]."
    )
    upload_format: str = choice(
        "dense",
        "Format that sets the size and time of an upload. dense: every row; sparse: touched rows "
        "with their numbers; bitmask: touched rows and one bit for every row.",
        UPLOAD_FORMATS,
    )
    download_rows: str = choice(
        "all",
        "Rows of the views that a client downloads. all: every row; touched: the rows of its "
        "history and of its sampled negatives, which it asks for by number. Training is the same. "
        "The server sees the numbers, and the history is among them.",
        ("all", "touched"),
    )
    upload_rank: int = choice(
        0,
        "0: clients upload the whole gradient. Above 0: clients multiply the gradient of each "
        "item by a basis of this many columns, which all clients of a round share (CoLR).",
    )
    upload_bits: int = choice(
        0,
        "0: uploads are float32. 2 to 16: clients round each number of the views' gradient at "
        "random to this many bits, with one scale per row (QSGD).",
    )
    upload_rows: int = choice(
        0,
        "0: all rows. Above 0: clients upload only this many item rows, those with the largest "
        "norm, and add the others to their next upload (top-k with error feedback). Needs "
        "--upload_format=sparse or bitmask.",
    )

    def __post_init__(self) -> None:
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
                f"--pause_s={self.pause_s:g}: needs a simulated clock; give also --participation, "
                "--deadline_s or --over_selection"
            )
        if (self.participation == "trace") != bool(self.trace):
            raise InputError(
                f"--trace={self.trace}: --participation=trace needs a file, and no other value "
                "reads one; give both or neither"
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
                f"--buffer={self.buffer}: --over_selection={self.over_selection:g} needs "
                "synchronous rounds; raise --cohort, the clients that train at a time"
            )
        if self.pause_s:
            raise InputError(
                f"--buffer={self.buffer}: --pause_s={self.pause_s:g} needs synchronous rounds; "
                "give 0"
            )

    @property
    def compression(self) -> str:
        """The flags that make uploads smaller, as given; "" without any."""
        names = ("upload_rank", "upload_bits", "upload_rows")
        values = [(name, getattr(self, name)) for name in names]
        return " ".join(f"--{name}={value}" for name, value in values if value)

    @property
    def has_clock(self) -> bool:
        """Whether a simulated clock chooses the clients of a round."""
        plain = self.participation == "always" and self.over_selection == 1
        return not plain or self.deadline_s > 0 or self.buffer > 0
