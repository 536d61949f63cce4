"""The privacy statement and the ledger of a run, in its directory and on the terminal."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.launching.processes import is_first
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.privacy.ledger import Ledger
from fedvlr_jax.privacy.release import release_of
from fedvlr_jax.privacy.statement import lines, statement
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.report.run_directory import PRIVATE_FILES
from fedvlr_jax.simulation import Simulation


def with_held_noise(config: Config) -> Config:
    """`config` with the noise of the run in --workdir, if only a target epsilon is given.

    The first start of a run sets the noise from its --rounds. Later starts with other --rounds keep
    that noise.
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
    """Why the run has fewer rounds than `asked` gives; "" if it has all of them."""
    rounds = simulation.config.federation.rounds
    if rounds == asked.federation.rounds:
        return ""
    return (
        f"privacy: the run stops after round {rounds} of --rounds={asked.federation.rounds}, "
        f"because one more would exceed --target_epsilon={asked.privacy.target_epsilon:g}"
    )


class Accounts:
    """The spent privacy budget of a run with --privacy. Does nothing without --privacy."""

    def __init__(
        self, simulation: Simulation, directory: RunDirectory, checkpoints: Checkpoints
    ) -> None:
        """Reads the spent rounds from the directory, independent of the resumed checkpoint.

        Raises:
          InputError: the ledger is damaged, or has another noise.
        """
        self._config = simulation.config
        self._num_users = simulation.population.num_users
        self._directory = directory
        self._ledger = None
        if self._config.privacy.privacy != "none":
            self._ledger = Ledger(directory.path, checkpoints.rounds())

    @property
    def stated(self) -> dict[str, Any] | None:
        """The current privacy statement; None without --privacy."""
        spent = 0 if self._ledger is None else self._ledger.rounds
        return statement(self._config, self._num_users, spent)

    @classmethod
    def of_member(cls, simulation: Simulation, folder: Path, *, replaces: bool) -> Accounts:
        """The accounts of a member, whose run directory is written after its training.

        Args:
          replaces: whether the member replaces an earlier run in the folder, with its ledger.

        Raises:
          InputError: as `Accounts`; or the folder cannot be written.
        """
        try:
            for name in PRIVATE_FILES if replaces else ():
                (folder / name).unlink(missing_ok=True)
            if simulation.config.privacy.privacy != "none":
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {reason(error)}") from None
        # The other files of an earlier run stay until the results replace them.
        return cls(simulation, RunDirectory(folder), Checkpoints(folder / "checkpoints"))

    def begin(self) -> None:
        """Records the exchanges before the first round as spent. Call it before training.

        Raises:
          InputError: the ledger has other exchanges.
        """
        if self._ledger is not None and is_first():
            release = release_of(self._config, self._num_users)
            noise = self._config.privacy.noise_multiplier
            self._ledger.begin_exchanges(release.exchanges, release.exchange_multiplier, noise)

    def publish(self, note: Callable[[str], None]) -> None:
        """Writes privacy.json, and passes every line of it to `note`."""
        stated = self.stated
        if stated is None:
            return
        if is_first():
            self._directory.write_privacy(stated)
        for line in lines(stated):
            note(line)

    def before_rounds(self, until: int) -> None:
        """Records the rounds up to `until` as spent. Call it before training them."""
        if self._ledger is not None and is_first():
            self._ledger.begin(until, self._config.privacy.noise_multiplier)


@contextlib.contextmanager
def kept_accounts(
    accounts: Sequence[Accounts],
) -> Iterator[Callable[[int, Sequence[bool]], None]]:
    """Keeps the accounts of members that train together inside the block.

    Their exchanges are recorded before it, and their statements are written after it, however it
    ends.

    Yields:
      `before_rounds` of `ensemble.train_members`.
    """
    for account in accounts:
        account.begin()

    def before_rounds(until: int, active: Sequence[bool]) -> None:
        for account, trains in zip(accounts, active, strict=True):
            if trains:
                account.before_rounds(until)

    try:
        yield before_rounds
    finally:
        for account in accounts:
            account.publish(lambda line: None)
