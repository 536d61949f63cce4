"""The ledger of a private run: the rounds that it has spent.

A round is written to disk before it is trained, so a killed run has spent at most what its ledger
says. The number never goes down: not when a run continues from an older checkpoint, nor when it
begins again because no checkpoint is whole. A round that is trained again draws the same cohort and
the same noise, from (seed, round, client), so it is one release.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from fedvlr_jax.errors import InputError
from fedvlr_jax.report.run_directory import LEDGER, replace_file


class Ledger:
    """The rounds whose release has begun, with their noise multiplier.

    Attributes:
      rounds: how many. multiplier: z of all of them; 0 while no ledger was written.
    """

    def __init__(self, folder: Path, known: Iterable[int] = ()):
        """Reads the ledger of a run directory; a missing one is empty.

        Args:
          known: numbers of trained rounds that other files prove, such as checkpoints.

        Raises:
          InputError: the ledger is damaged, so the spent rounds are not known.
        """
        self._path = folder / LEDGER
        self.rounds, self.multiplier = 0, 0.0
        if self._path.exists():
            self.rounds, self.multiplier = _read(self._path)
        self.rounds = max(self.rounds, *known, 0)

    def begin(self, until: int, multiplier: float) -> None:
        """Enters the rounds up to `until`, all with `multiplier`. Returns once it is on the disk.

        Raises:
          InputError: the disk does not take it, or earlier rounds had another multiplier.
        """
        if self.multiplier not in (0.0, multiplier):
            raise InputError(
                f"{self._path}: its rounds have --noise_multiplier={self.multiplier}, not "
                f"{multiplier}"
            )
        if until <= self.rounds and self.multiplier:
            return
        self.rounds, self.multiplier = max(until, self.rounds), multiplier
        content = json.dumps({"rounds": self.rounds, "noise_multiplier": multiplier})
        try:
            replace_file(self._path, content.encode() + b"\n")
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written: {error.strerror}") from None


def _read(path: Path) -> tuple[int, float]:
    try:
        content = json.loads(path.read_text())
        rounds, multiplier = content["rounds"], content["noise_multiplier"]
        if type(rounds) is int and rounds >= 0 and multiplier > 0:
            return rounds, float(multiplier)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: damaged, so the spent rounds are not known; give another --workdir")
