"""Results, checkpoints and resources of a run."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Results, checkpoints and resources of a run."""

    seed: int = choice(0, "Seed of all random numbers of the run.")
    workdir: str = choice(
        "",
        "Folder of the results. Empty: runs/<dataset>-<protocol>-<backbone>-<fusion>-seed<seed>.",
        resumable=True,
        path=True,
    )
    overwrite: bool = choice(False, "Replaces the run in --workdir.", resumable=True)
    resume: str = choice(
        "auto",
        "Treatment of a run that is already in --workdir. auto: resumes it, and refuses if its "
        "flags differ; never: refuses a folder that holds a run; must: refuses a folder that "
        "holds no run.",
        ("auto", "never", "must"),
        resumable=True,
    )
    checkpoint_every: int = choice(
        50,
        "Number of rounds between two checkpoints. --checkpoint_share can delay them. The run is "
        "always saved at its end.",
        resumable=True,
    )
    checkpoint_share: float = choice(
        0.03,
        "Maximum fraction of the run time spent saving before the end, estimated from the last "
        "save. It delays a save by at most 60 s. 1: no delay.",
        resumable=True,
    )
    keep_checkpoints: int = choice(2, "Number of the newest checkpoints to keep.", resumable=True)
    store: str = choice(
        "device",
        "Storage of the private rows. device: device memory; host: host memory; disk: sparse "
        "files. With host and disk only the rows of a cohort move to the device.",
        ("device", "host", "disk"),
        resumable=True,
    )
    store_dir: str = choice(
        "",
        "Folder of the files of --store=disk. Empty: the system's temporary folder.",
        resumable=True,
        path=True,
    )
    devices: int = choice(
        0,
        "Number of devices that share the clients: 1, 2, 4 or 8. 0: as many of these as the "
        "process has.",
        resumable=True,
    )
    memory_budget_gb: float = choice(
        0.0,
        "Memory budget of the run, in units of 1e9 bytes. 0: nine tenths of the device memory, or "
        "of a lower limit set by the container, the batch system or ulimit.",
        resumable=True,
    )
    keep_best: int = choice(
        1,
        "Number of older checkpoints to keep too: those with the best values of --select.",
        resumable=True,
    )

    def __post_init__(self) -> None:
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
            raise InputError("--overwrite: contradicts --resume=must; give only one of them")
