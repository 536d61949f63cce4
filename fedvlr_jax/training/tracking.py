"""Runs in the tools that people watch training with: TensorBoard, or one of your own.

A tracker receives every evaluation of a run. A tool is a class of three methods:

    class Wandb:
        def begin(self, flags, first_round):
            wandb.init(mode="offline", config=dict(flags))

        def evaluation(self, entry, weights=None):
            wandb.log(scalars_of(entry), step=entry["round"])

        def end(self, summary):
            wandb.summary.update(scalars_of(summary))

`evaluation_callback` connects it to `training.train`:

    tracker = Wandb()
    tracker.begin(simulation.config.flat, 0)
    run, timing = train(simulation, on_evaluation=evaluation_callback(tracker, simulation))
    summary, users = summarise_run(simulation, run, timing)
    tracker.end(summary)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.simulation import Simulation
from fedvlr_jax.training import RunState


class Tracker(Protocol):
    """Receives a run, in this order."""

    def begin(self, flags: Mapping[str, Any], first_round: int) -> None:
        """`flags`: as config.json has them; `first_round`: 0, or where the run continues."""

    def evaluation(self, entry: Mapping[str, Any], weights: np.ndarray | None = None) -> None:
        """`entry`: as `training.RunState.evaluations` has it; `weights`: float32 [N, G], those
        of the clients' routers, None without routers."""

    def end(self, summary: Mapping[str, Any]) -> None:
        """`summary`: as summary.json has it."""


def evaluation_callback(
    tracker: Tracker, simulation: Simulation
) -> Callable[[RunState, float], None]:
    """The `on_evaluation` of `training.train` that tells the tracker of every evaluation.

    In a run of several processes the tracker gets no router weights, because every process would
    have to compute them.
    """
    routed = simulation.model.fusion.set_logits is not None and jax.process_count() == 1

    def tell(run: RunState, rounds_per_s: float) -> None:
        weights = simulation.router_weights(run.state) if routed else None
        tracker.evaluation(run.evaluations[-1], weights)

    return tell


def scalars_of(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of nested JSON values: {"valid": {"ndcg@50": 3.0}} -> {"valid/ndcg@50":
    3.0}. Other values are left out."""
    scalars: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            scalars |= scalars_of(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
            scalars[f"{prefix}{name}"] = float(value)
    return scalars


class TensorBoard:
    """Writes scalars, histograms of router weights and the options of a run as event files.

    A run that continues replaces the events of later rounds. Tags are the names of
    metrics.jsonl with _ for @: "valid/ndcg_50".

    Args:
      folder: the folder of the event files; created if it is missing.
      views: the names of the views, for the histograms.

    Raises:
      InputError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | Path, views: tuple[str, ...] = ()) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError(
                "--tensorboard: needs tensorboardX; pip install tensorboardX"
            ) from None
        self._make, self._folder, self._views = SummaryWriter, Path(folder), views
        self._writer: Any = None

    def begin(self, flags: Mapping[str, Any], first_round: int) -> None:
        self._writer = self._make(
            str(self._folder), purge_step=first_round + 1 if first_round else None
        )
        lines = [f"| {name} | {value} |" for name, value in flags.items()]
        table = "\n".join(["| option | value |", "|---|---|", *lines])
        self._writer.add_text("options", table, first_round)

    def evaluation(self, entry: Mapping[str, Any], weights: np.ndarray | None = None) -> None:
        """As `Tracker.evaluation`."""
        step = entry["round"]
        for name, value in scalars_of(entry).items():
            if name != "round":
                self._writer.add_scalar(_tag(name), value, step)
        if weights is not None:
            for view, view_weights in zip(self._views, weights.T, strict=True):
                self._writer.add_histogram(f"router/{view}", view_weights, step)
        self._writer.flush()

    def end(self, summary: Mapping[str, Any]) -> None:
        step = int(summary["rounds_run"])
        for name, value in scalars_of({"test": summary["test"]}).items():
            self._writer.add_scalar(_tag(name), value, step)
        self._writer.close()


class Lenient:
    """A tracker that receives nothing after its first fault; the run continues.

    Args:
      name: of the tracker, for the note, such as "--tensorboard=FOLDER".
      note: called once, with one line that names the fault.
    """

    def __init__(self, tracker: Tracker, name: str, note: Callable[[str], None]) -> None:
        self._tracker: Tracker | None = tracker
        self._name, self._note = name, note

    def begin(self, flags: Mapping[str, Any], first_round: int) -> None:
        """As `Tracker.begin`."""
        self._tell(lambda tracker: tracker.begin(flags, first_round))

    def evaluation(self, entry: Mapping[str, Any], weights: np.ndarray | None = None) -> None:
        """As `Tracker.evaluation`."""
        self._tell(lambda tracker: tracker.evaluation(entry, weights))

    def end(self, summary: Mapping[str, Any]) -> None:
        """As `Tracker.end`."""
        self._tell(lambda tracker: tracker.end(summary))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            call(self._tracker)
        except OSError as error:
            self._tracker = None
            why = reason(error)
            self._note(f"{self._name}: cannot be written: {why}; the run goes on without it")


def _tag(name: str) -> str:
    """Tags have no @: "valid/ndcg_50"."""
    return name.replace("@", "_")
