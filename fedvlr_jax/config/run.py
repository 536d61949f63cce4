"""Where results go, and how a run is saved."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where results go, and what makes a run repeatable and able to go on."""

    seed: int = choice(0, "Everything random derives from (seed, round, client).")
    workdir: str = choice(
        "",
        "Folder for results; empty: runs/<dataset>-<protocol>-<backbone>-<fusion>-seed<seed>.",
        resumable=True,
        path=True,
    )
    overwrite: bool = choice(False, "Replace the run that --workdir holds.", resumable=True)
    resume: str = choice(
        "auto",
        "auto: go on with the run that --workdir holds, refuse if its flags differ; "
        "never: refuse a folder that holds a run; must: refuse one that holds none.",
        ("auto", "never", "must"),
        resumable=True,
    )
    checkpoint_every: int = choice(
        50,
        "Save at the first chance after each multiple of this many rounds that "
        "--checkpoint_share allows, and at the end.",
        resumable=True,
    )
    checkpoint_share: float = choice(
        0.03,
        "The most of a run's time that saves before the end may take, by what the last one took; "
        "they are at most 60 s further apart for it. 1: every --checkpoint_every rounds to the "
        "letter.",
        resumable=True,
    )
    keep_checkpoints: int = choice(
        2, "How many of the newest checkpoints are kept.", resumable=True
    )
    store: str = choice(
        "device",
        "Where private rows lie: device; host, in its memory, only a cohort's rows travel; disk, "
        "in sparse files.",
        ("device", "host", "disk"),
        resumable=True,
    )
    store_dir: str = choice(
        "",
        "Folder for the files of --store=disk; empty: the system's temporary folder.",
        resumable=True,
        path=True,
    )
    devices: int = choice(
        0,
        "Devices that share the clients: 1, 2, 4 or 8; 0: the most of these that there are.",
        resumable=True,
    )
    memory_budget_gb: float = choice(
        0.0,
        "Memory that a run may take, in 1e9 bytes; 0: nine tenths of the device's, or of what the "
        "container, the batch system or ulimit allow.",
        resumable=True,
    )
    keep_best: int = choice(
        1,
        "How many older checkpoints are kept as well, those of the best value of --select.",
        resumable=True,
    )

    def __post_init__(self):
        check_fields(self)
        check_range(self, "seed", 0, 2**31 - 1)
        check_range(self, "checkpoint_every", 1)
        if not 0 < self.checkpoint_share <= 1:
            raise InputError(
                f"--checkpoint_share={self.checkpoint_share}: give a number above 0 and at most 1"
            )
        check_range(self, "keep_checkpoints", 1)
        check_range(self, "devices", 0)
        check_range(self, "memory_budget_gb", 0)
        check_range(self, "keep_best", 0)
        if self.overwrite and self.resume == "must":
            raise InputError("--overwrite: cannot go with --resume=must")
