"""The trials of a search, kept by Optuna in one file that several processes share.

Trials are asked in batches, by one process at a time. Each trial has a folder, which its process
locks while it trains. The next process that asks takes up a trial that none trains any more.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from fedvlr_jax.commands.members import Choice
from fedvlr_jax.commands.one_run.runs import check_same
from fedvlr_jax.commands.searching.space import Dimension
from fedvlr_jax.config import RESUMABLE_WHEN_FINISHED
from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.report import locked

JOURNAL, LOCK = "search.journal", ".search.lock"
# Optuna's defaults are made for searches of hundreds of trials.
FIRST_AT_RANDOM, FIRST_WHOLE = 10, 3
# The states of a told trial, as tables name them.
FINISHED, PRUNED, DIVERGED, REFUSED = "finished", "pruned", "diverged", "refused"
# Flags that may change from one start to the next: they change no trial's numbers.
FREE = RESUMABLE_WHEN_FINISHED


class Asked(NamedTuple):
    """A trial to train.

    Attributes:
      trial: of Optuna. choice: its values. folder: of its run, which `held` holds.
      reported: the newest round whose value an earlier process reported; -1 for none.
    """

    trial: Any
    choice: Choice
    folder: Path
    held: contextlib.ExitStack
    reported: int = -1


class Told(NamedTuple):
    """A trial that has ended.

    Attributes:
      folder: of its run. choice: its values, as text.
      state: one of FINISHED, PRUNED, DIVERGED, REFUSED.
      valid: the validation value in percent that the run was selected by; None unless finished.
      rounds: that were trained.
    """

    folder: str
    choice: str
    state: str
    valid: float | None
    rounds: int


def optuna() -> Any:
    """The library. Raises InputError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise InputError("fedvlr search needs Optuna; pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class StudyOptions(NamedTuple):
    """How trials are drawn and ended.

    Attributes:
      sampler: "tpe" or "random"; seed: of its draws.
      trials: how many are asked, over all processes and starts.
      batch: how many are drawn together: the k-th batch has the trials k * batch and following.
      budget: no trial begins once so many rounds are trained; 0: no limit.
      prune: end a trial that is below the median of the earlier ones at the same round.
      first_pruned_round: no trial ends before it.
    """

    sampler: str
    seed: int
    trials: int
    batch: int = 1
    budget: int = 0
    prune: bool = True
    first_pruned_round: int = 1


class Study:
    """The trials below one folder.

    Args:
      folder: of the search; made when missing.
      settings: what every process and every start must agree on, by flag name.
      fingerprint: of the data.

    The values of a trial depend on the seed, its number and the trials told before, so that a
    search that was stopped draws what an undisturbed one draws. The trials of one batch are drawn
    before any of them is told.

    Raises:
      InputError: the folder holds a search of other settings, another thing, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        space: Sequence[Dimension],
        settings: Mapping[str, Any],
        fingerprint: str,
        options: StudyOptions,
    ) -> None:
        self._optuna, self.folder, self._space = optuna(), folder, space
        self._options = options
        self._rounds_of_a_trial = int(settings["rounds"])
        self._pruner = (
            self._optuna.pruners.MedianPruner(
                n_startup_trials=FIRST_WHOLE, n_warmup_steps=options.first_pruned_round
            )
            if options.prune
            else self._optuna.pruners.NopPruner()
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / LOCK)
            with self._lock:
                self._study = self._opened()
                self._agree(settings, fingerprint)
        except OSError as error:
            raise InputError(f"--workdir={folder}: cannot be written: {reason(error)}") from None

    def _opened(self) -> Any:
        path = self.folder / JOURNAL
        backend = self._optuna.storages.journal.JournalFileBackend(str(path))
        try:
            storage = self._optuna.storages.JournalStorage(backend)
            return self._optuna.create_study(
                storage=storage,
                study_name="search",
                direction="maximize",
                pruner=self._pruner,
                load_if_exists=True,
            )
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AssertionError):
            raise InputError(
                f"{path}: damaged, no journal of Optuna; give another --workdir, or remove it to "
                "search again"
            ) from None

    def _agree(self, settings: Mapping[str, Any], fingerprint: str) -> None:
        saved = self._study.user_attrs
        if "settings" not in saved:
            self._study.set_user_attr("settings", dict(settings))
            self._study.set_user_attr("fingerprint", fingerprint)
            return
        now = json.loads(json.dumps(dict(settings)))
        where = f"--workdir={self.folder}"
        # Earlier versions drew one trial at a time.
        was = {"batch": 1, **saved["settings"]}
        held = was, saved["fingerprint"]
        check_same(where, held, (now, fingerprint), FREE, can_overwrite=False)

    def ask(self) -> list[Asked]:
        """At most a batch of trials that no process trains; empty once all have been asked.

        Abandoned trials come first, then new ones up to the end of their batch. The folders are
        held until `tell` or `leave`.
        """
        trials, batch = self._options.trials, self._options.batch
        budget = self._options.budget or math.inf
        with self._lock:
            self._drop_unplaced()
            known = self._known()
            asked = self._abandoned(known)
            places, spent = len(known), self._spent(known)
            while places < trials and spent < budget:
                # A process that is stopped while it draws leaves a batch that is not whole.
                if places % batch == 0 and asked:
                    break
                asked.append(self._begun(places))
                places, spent = places + 1, spent + self._rounds_of_a_trial
        return asked

    def _drop_unplaced(self) -> None:
        """Fails the trials whose process died while it drew them, so that no sampler reads them."""
        states = self._optuna.trial.TrialState
        for frozen in self._study.get_trials(states=(states.RUNNING,)):
            if "place" not in frozen.user_attrs:
                self._study.tell(frozen.number, state=states.FAIL)

    def _abandoned(self, known: Sequence[Any]) -> list[Asked]:
        running = self._optuna.trial.TrialState.RUNNING
        asked: list[Asked] = []
        for frozen in known:
            if len(asked) == self._options.batch:
                break
            if frozen.state == running and (held := self._free(frozen)) is not None:
                asked.append(self._taken_up(frozen, held))
        return asked

    def _known(self) -> list[Any]:
        """The trial of each place, by ascending place.

        A trial has failed if it was not drawn to its end, or if an earlier version abandoned it and
        asked another one of its values.
        """
        failed = self._optuna.trial.TrialState.FAIL
        placed = [t for t in self._study.trials if t.state != failed and "place" in t.user_attrs]
        by_place = {frozen.user_attrs["place"]: frozen for frozen in placed}
        return [by_place[place] for place in sorted(by_place)]

    def _free(self, frozen: Any) -> contextlib.ExitStack | None:
        """Holds the folder of a trial; None where another process does, or has told the trial."""
        held = contextlib.ExitStack()
        try:
            held.enter_context(locked(self.folder / frozen.user_attrs["folder"]))
        except InputError:
            return None
        if self._study.trials[frozen.number].state.is_finished():
            held.close()
            return None
        return held

    def _taken_up(self, frozen: Any, held: contextlib.ExitStack) -> Asked:
        # The same trial, not a new one of these values: a sampler reads the trials by number.
        place = frozen.user_attrs["place"]
        self._study.sampler = self._sampler_of(place)
        trial = self._optuna.trial.Trial(self._study, frozen._trial_id)
        reported = max(self._study.trials[frozen.number].intermediate_values, default=-1)
        return self._asked(trial, place, held)._replace(reported=reported)

    def _begun(self, place: int) -> Asked:
        self._study.sampler = self._sampler_of(place)
        held = contextlib.ExitStack()
        held.enter_context(locked(self._folder_of(place)))
        trial = self._study.ask()
        asked = self._asked(trial, place, held)
        trial.set_user_attr("folder", asked.folder.name)
        trial.set_user_attr("place", place)
        return asked

    def _folder_of(self, place: int) -> Path:
        return self.folder / f"trial{place:04d}"

    def _asked(self, trial: Any, place: int, held: contextlib.ExitStack) -> Asked:
        choice = tuple(pair for dimension in self._space for pair in dimension.draw(trial))
        return Asked(trial, choice, self._folder_of(place), held)

    def _sampler_of(self, place: int) -> Any:
        seed = (1_000_003 * self._options.seed + place) % 2**32
        if self._options.sampler == "random":
            return self._optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            # Whether the option is experimental depends on Optuna's version.
            warnings.simplefilter("ignore")
            return self._optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=min(FIRST_AT_RANDOM, max(2, self._options.trials // 3)),
                constant_liar=True,
            )

    def _spent(self, trials: Sequence[Any]) -> int:
        """Rounds trained; a trial under way counts as a whole one."""
        return sum(t.user_attrs.get("rounds", self._rounds_of_a_trial) for t in trials)

    def tell(self, asked: Asked, state: str, rounds: int, valid: float | None, choice: str) -> None:
        """Ends a trial: `state` as of `Told`."""
        states = self._optuna.trial.TrialState
        for name, value in {"state": state, "rounds": rounds, "choice": choice}.items():
            asked.trial.set_user_attr(name, value)
        if state == FINISHED:
            self._study.tell(asked.trial, valid)
        else:
            # A sampler learns from a pruned trial, not from a failed one.
            self._study.tell(asked.trial, state=states.PRUNED)
        asked.held.close()

    def leave(self, asked: Asked) -> None:
        """Lets the trial be, for another process or another start to continue.

        A trial that was told stays as it is.
        """
        asked.held.close()

    def told(self) -> list[Told]:
        """The trials that have ended, in the order in which they were asked."""
        found = []
        for frozen in self._known():
            if not frozen.state.is_finished():
                continue
            attrs = frozen.user_attrs
            valid = frozen.value if attrs["state"] == FINISHED else None
            found.append(
                Told(attrs["folder"], attrs["choice"], attrs["state"], valid, attrs["rounds"])
            )
        return found
