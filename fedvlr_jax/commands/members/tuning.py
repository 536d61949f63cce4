"""Tunes a choice with one seed, and trains the best with the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fedvlr_jax.commands.members.choices import Choice, label_of
from fedvlr_jax.commands.members.folders import validation_of
from fedvlr_jax.errors import InputError


class Run(Protocol):
    """The attributes of a run, federated or centralized, that `tuned` uses."""

    @property
    def choice(self) -> Choice: ...
    @property
    def directory(self) -> Path: ...


AnyRun = TypeVar("AnyRun", bound=Run)


def tuned(
    choices: Sequence[Choice],
    seeds: Sequence[int],
    make: Callable[[Choice, int], AnyRun],
    train: Callable[[list[AnyRun]], Any],
) -> tuple[list[AnyRun], list[dict[str, Any]]]:
    """Trains every choice with the first seed, and the best choice with the other seeds too.

    The best choice has the highest validation value of --select. Test values are not used.

    Args:
      make: makes the run of a choice and a seed.
      train: trains the unfinished ones of the given runs.

    Returns:
      (the runs of the best choice, one per seed; the tried settings, each as
      {"choice": label, "valid": value, None if it diverged}).

    Raises:
      InputError: every choice diverged.
    """
    first = [make(choice, seeds[0]) for choice in choices]
    train(first)
    reached = [validation_of(run.directory) for run in first]
    tried = [
        {"choice": label_of(run.choice), "valid": value}
        for run, value in zip(first, reached, strict=True)
    ]
    # A diverged run is worse than a run with validation value 0.
    values = [-1.0 if value is None else value for value in reached]
    best = values.index(max(values))
    if reached[best] is None:
        raise InputError(
            f"{first[best].directory}: all choices diverged; give smaller learning rates"
        )
    others = [make(choices[best], seed) for seed in seeds[1:]]
    train(others)
    return [first[best], *others], tried
