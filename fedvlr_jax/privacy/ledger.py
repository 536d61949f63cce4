"""The ledger of a private run: the spent exchanges and rounds.

The run writes a release to the ledger before it computes it, so a killed run has spent at most the
number in its ledger. The numbers never decrease, even if a run continues from an older checkpoint
or starts again without one. A round that is trained again draws the same cohort and the same noise
from (seed, round, client), so it counts as one release. The same holds for the exchanges of
a closed form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.report.atomic_files import replace_file
from fedvlr_jax.report.run_directory import LEDGER


class Ledger:
    """The recorded rounds and exchanges, with their noise multipliers.

    Attributes:
      rounds: number of rounds. multiplier: z of each round; 0 before the ledger is written.
      exchanges: number of exchanges before the first round. exchange_multiplier: their z.
    """

    def __init__(self, folder: Path, known: Iterable[int] = ()) -> None:
        """Reads the ledger of a run directory; a missing ledger is empty.

        Args:
          known: numbers of trained rounds in other files, such as checkpoints.

        Raises:
          InputError: the ledger is damaged, so the number of spent rounds is unknown.
        """
        self._path = folder / LEDGER
        self.rounds, self.multiplier = 0, 0.0
        self.exchanges, self.exchange_multiplier = 0, 0.0
        if self._path.exists():
            self.rounds, self.multiplier = _read(self._path, "rounds", "noise_multiplier")
            self.exchanges, self.exchange_multiplier = _read(
                self._path, "exchanges", "exchange_noise_multiplier", default=(0, 0.0)
            )
        self.rounds = max(self.rounds, *known, 0)

    def begin_exchanges(self, number: int, exchange_multiplier: float, multiplier: float) -> None:
        """Records the exchanges before the first round. Returns after the disk has the record.

        Args:
          multiplier: of the later rounds.

        Raises:
          InputError: the disk cannot be written, or the ledger has other exchanges.
        """
        entered = self.exchanges, self.exchange_multiplier
        if self.exchanges and entered != (number, exchange_multiplier):
            raise InputError(
                f"{self._path}: has {self.exchanges} exchanges with --init_noise_multiplier="
                f"{self.exchange_multiplier}, not {number} with {exchange_multiplier}"
            )
        if number == 0 or self.exchanges:
            return
        self.exchanges, self.exchange_multiplier = number, exchange_multiplier
        self._write(self.rounds, multiplier)

    def begin(self, until: int, multiplier: float) -> None:
        """Records the rounds up to `until`, all with `multiplier`. Returns after the disk has them.

        Raises:
          InputError: the disk cannot be written, or earlier rounds had another multiplier.
        """
        if until <= self.rounds and self.multiplier == multiplier:
            return
        self._write(max(until, self.rounds), multiplier)

    def _write(self, rounds: int, multiplier: float) -> None:
        if self.multiplier not in (0.0, multiplier):
            raise InputError(
                f"{self._path}: its rounds have --noise_multiplier={self.multiplier}, not "
                f"{multiplier}"
            )
        self.rounds, self.multiplier = rounds, multiplier
        content: dict[str, Any] = {"rounds": rounds, "noise_multiplier": multiplier}
        if self.exchanges:
            content["exchanges"] = self.exchanges
            content["exchange_noise_multiplier"] = self.exchange_multiplier
        try:
            replace_file(self._path, json.dumps(content).encode() + b"\n")
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written: {reason(error)}") from None


def _read(
    path: Path, number: str, multiplier: str, default: tuple[int, float] | None = None
) -> tuple[int, float]:
    """The number and its multiplier; `default` if the ledger has neither."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if default is not None and not {number, multiplier} & content.keys():
            return default
        count, z = content[number], content[multiplier]
        if type(count) is int and count >= 0 and z > 0:
            return count, float(z)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(f"{path}: damaged, so the spent rounds are not known; give another --workdir")
