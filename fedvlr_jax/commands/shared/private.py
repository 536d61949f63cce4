"""The privacy statement and the ledger of a run, in its directory and on the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.shared.processes import is_first
from fedvlr_jax.config import Config
from fedvlr_jax.privacy.ledger import Ledger
from fedvlr_jax.privacy.statement import lines, statement
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.simulation import Simulation


def with_held_noise(config: Config) -> Config:
    """`config` with the noise of the run that --workdir holds, where only a target is given.

    The noise depends on the --rounds of its first start; later starts may give others.
    """
    path, privacy = Path(config.workdir), config.privacy
    begins = config.run.overwrite or not (path / "config.json").exists()
    if privacy.privacy == "none" or privacy.noise_multiplier or begins:
        return config
    flags = RunDirectory.open(path).read_config()["flags"]
    held = Ledger(path).multiplier or flags.get("noise_multiplier", 0.0)
    return dataclasses.replace(
        config, privacy=dataclasses.replace(privacy, noise_multiplier=float(held))
    )


def budget_note(asked: Config, simulation: Simulation) -> str:
    """Why the run has fewer rounds than were asked for; "" where it has not."""
    rounds = simulation.config.federation.rounds
    if rounds == asked.federation.rounds:
        return ""
    return (
        f"privacy: the run stops after round {rounds} of --rounds={asked.federation.rounds}, for "
        f"one more would pass --target_epsilon={asked.privacy.target_epsilon:g}"
    )


class Accounts:
    """The spent rounds of a run with --privacy. Does nothing without it."""

    def __init__(self, simulation: Simulation, directory: RunDirectory, checkpoints: Checkpoints):
        """Reads what the directory proves to be spent, whichever checkpoint is gone on from.

        Raises:
          InputError: the ledger is damaged, or of another noise.
        """
        self._config = simulation.config
        self._num_users = simulation.dataset.num_users
        self._directory = directory
        self._ledger = None
        if self._config.privacy.privacy != "none":
            self._ledger = Ledger(directory.path, checkpoints.rounds())

    @property
    def stated(self) -> dict[str, Any] | None:
        """The statement by now; None without --privacy."""
        spent = 0 if self._ledger is None else self._ledger.rounds
        return statement(self._config, self._num_users, spent)

    def publish(self, note: Callable[[str], None]) -> None:
        """Writes privacy.json, and tells `note` every line of it."""
        stated = self.stated
        if stated is None:
            return
        if is_first():
            self._directory.write_privacy(stated)
        for line in lines(stated):
            note(line)

    def before_rounds(self, until: int) -> None:
        """Enters the rounds up to `until` as spent; called before they are trained."""
        if self._ledger is not None and is_first():
            self._ledger.begin(until, self._config.privacy.noise_multiplier)
