"""Writes the recommendations of every user as CSV."""

from __future__ import annotations

import codecs
import csv
from pathlib import Path

import numpy as np

from fedvlr_jax.commands.one_run.runs import titles_of
from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.report import replacing
from fedvlr_jax.report.run_directory import PRIVATE_FILES, RUN_FILES
from fedvlr_jax.simulation import Simulation, State

# Number of places beyond --k that an export ranks, to replace items that it leaves out.
MOST_SPARE_PLACES = 10_000


def listed(
    items: np.ndarray, scores: np.ndarray, cold: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """(places int [at most k], tie bool [same]) of one user's list, best first.

    Args:
      items, scores: [m] of one user, best first; a place without a candidate has score -inf.
      cold: bool [num_items], items without a train interaction. The list leaves out cold items
        that tie with another cold item.
    """
    size = int(np.isfinite(scores).sum())
    items, scores = items[:size], scores[:size]
    tie = np.zeros(size, bool)
    if size:
        equal = scores[1:] == scores[:-1]
        tie[1:] |= equal
        tie[:-1] |= equal
    # Number of cold candidates per score: two or more with one score have no order.
    _, group, count = np.unique(scores[cold[items]], return_inverse=True, return_counts=True)
    left_out = np.zeros(size, bool)
    left_out[cold[items]] = count[group] > 1
    places = np.flatnonzero(~left_out)[:k]
    return places, tie[places]


def check_export(path: Path, run: Path) -> None:
    """Raises InputError where an export would replace a file of the directory of a run."""
    own = run.resolve()
    places = {own / name for name in (*RUN_FILES, *PRIVATE_FILES, "checkpoints")}
    if places & {path.resolve(), *path.resolve().parents}:
        raise InputError(f"--export={path}: is a file of the run in {run}; give another name")


def export(simulation: Simulation, state: State, k: int, path: Path) -> None:
    """Writes at most k items of every user as CSV, with titles if the data set has them.

    `listed` says which items are left out; a list may therefore have fewer than k items.
    """
    dataset = simulation.dataset
    titles = titles_of(simulation.config, dataset)
    cold = dataset.train.item_counts == 0
    # Extra places for items that are left out, and one to detect a tie at the end.
    places = min(dataset.num_items, k + min(int(cold.sum()), MOST_SPARE_PLACES) + 1)
    items, scores = simulation.recommend(state, places)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            writer = csv.writer(codecs.getwriter("utf-8")(file))
            writer.writerow(
                ["user", "rank", "item", "score", "tie", *([] if titles is None else ["title"])]
            )
            for user in range(dataset.num_users):
                chosen = zip(*listed(items[user], scores[user], cold, k), strict=True)
                for number, (place, tie) in enumerate(chosen, 1):
                    item = dataset.item_ids[items[user, place]]
                    score = f"{scores[user, place]:.6g}"
                    title = [] if titles is None else [titles[items[user, place]]]
                    writer.writerow([dataset.user_ids[user], number, item, score, int(tie), *title])
    except OSError as error:
        raise InputError(f"--export={path}: cannot be written: {reason(error)}") from error
