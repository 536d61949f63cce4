"""How often the closed form of the defaults beats the best baseline, over many data sets.

    python -m benchmarks.transfer --data_root=data --datasets=KU,Beauty --json=transfer.json

Derives data sets from each of --datasets: random halves of the users and of the items, random
splits, a split by time, thinner histories, a heavier tail, and features that are left out or
permuted. The generators add further ones, with other sizes and seeds than their defaults. --seed
draws other halves, splits and generated data.

On each data set, round 0 of `--init=ease` with its defaults is compared with every personal
baseline of the package, each tuned on the validation part. A baseline "<name>_recent" scores
histories whose older items weigh less. The metric is NDCG@50 in percent, of the warm targets if the
data set has cold ones. Two lines of the table compare with the best of all baselines: the best on
validation, as a user would select it, and the best on the test part, which nobody can know.

--json has the numbers of every data set. It is written after each one, and the same command
continues an interrupted one.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path
from fedvlr_jax.commands.launching.launch import launch
from fedvlr_jax.config import SYNTHETIC_KINDS, InitConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.data.synthetic import generate
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines import evaluate_baselines, rank
from fedvlr_jax.evaluation.baselines.trivial import TRIVIAL
from fedvlr_jax.evaluation.metrics import slices, user_metrics
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.evaluation.selection import resolve_selection
from fedvlr_jax.federated.ease_settings import Wanted, ease_initialization
from fedvlr_jax.selection import Selection, parse_selection

FLAGS = flags.FLAGS
WIDTH = 128
FEWEST = 4  # Items that a user of a derived data set needs.
MOST_USERS = 400  # Of a derived data set, except the halves of the users.
RECENCY = 0.5  # Of the baselines "<name>_recent".
# Users, items, mean history.
SIZES = ((300, 300, 20), (400, 900, 12), (250, 500, 50), (3000, 600, 20))
# A difference that counts as significant, in standard errors of the paired difference over users.
SIGNIFICANT = 2.0
BEST = {"valid": "the best on validation", "test": "the best on test"}


class Pairs(NamedTuple):
    """All interactions of a data set, whatever their part: int64 [n] each, and the features."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    features: Mapping[str, np.ndarray]

    def where(self, chosen: np.ndarray) -> Pairs:
        """The chosen ones (bool [n]) of the users who keep at least FEWEST items."""
        counts = np.bincount(self.user, chosen)
        chosen = chosen & (counts >= FEWEST)[self.user]
        return Pairs(self.user[chosen], self.item[chosen], self.time[chosen], self.features)

    def dataset(self, name: str, **split: Any) -> Dataset:
        """A data set of the items that somebody has; leave-one-out in time without `split`."""
        catalogue = np.unique(self.item)
        return Dataset.from_arrays(
            user=self.user,
            item=self.item,
            time=self.time,
            item_ids=catalogue,
            features={key: rows[catalogue] for key, rows in self.features.items()},
            name=name,
            **split,
        )


def pairs_of(dataset: Dataset) -> Pairs:
    parts = (dataset.train, dataset.valid, dataset.test)
    joined = lambda arrays: np.concatenate([np.asarray(x, np.int64) for x in arrays])
    return Pairs(
        user=joined(part.users for part in parts),
        item=joined(part.item for part in parts),
        time=joined(part.time for part in parts),
        features=dataset.features,
    )


def random_parts(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """int8 [n]: of each user's items a fifth is test, a tenth validation, at least one each."""
    order = np.lexsort((rng.random(len(pairs.user)), pairs.user))
    counts = np.bincount(pairs.user)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - (np.cumsum(counts) - counts)[pairs.user[order]]
    length = counts[pairs.user]
    for_test = np.maximum(1, length // 5)
    held_out = for_test + np.maximum(1, length // 10)
    return np.where(place < for_test, 2, place < held_out).astype(np.int8)


def heavier_tail(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Keeps a pair with a probability that grows with the root of the item's count."""
    counts = np.bincount(pairs.item)
    return pairs.where(rng.random(len(pairs.item)) < np.sqrt(counts / counts.max())[pairs.item])


def other_features(pairs: Pairs, rng: np.random.Generator) -> Iterator[tuple[str, Pairs]]:
    """The same interactions without features, with permuted rows, and with each modality alone."""
    if not pairs.features:
        return
    yield "no features", pairs._replace(features={})
    order = rng.permutation(len(next(iter(pairs.features.values()))))
    permuted = {key: rows[order] for key, rows in pairs.features.items()}
    yield "permuted", pairs._replace(features=permuted)
    if len(pairs.features) > 1:
        for key, rows in pairs.features.items():
            yield key, pairs._replace(features={key: rows})


def derived(name: str, dataset: Dataset, seed: int) -> Iterator[Dataset]:
    """The data sets made of one."""
    rng, whole = np.random.default_rng(seed), pairs_of(dataset)
    user_half = rng.permutation(dataset.num_users) % 2
    item_half = rng.permutation(dataset.num_items) % 2
    pairs = whole.where((rng.permutation(dataset.num_users) < MOST_USERS)[whole.user])
    for half in (0, 1):
        chosen = whole.where(user_half[whole.user] == half)
        yield chosen.dataset(f"{name}, users {half}")
    for half in (0, 1):
        chosen = pairs.where(item_half[pairs.item] == half)
        yield chosen.dataset(f"{name}, items {half}")
    yield pairs.dataset(f"{name}, random", part=random_parts(pairs, rng))
    for label, same in other_features(pairs, rng):
        yield same.dataset(f"{name}, {label}", part=random_parts(same, rng))
    yield pairs.dataset(f"{name}, time", split="global-time")
    thin = pairs.where(rng.random(len(pairs.user)) < 0.5)
    yield thin.dataset(f"{name}, thin")
    tail = heavier_tail(pairs, rng)
    yield tail.dataset(f"{name}, tail", part=random_parts(tail, rng))


def generated(seed: int) -> Iterator[Dataset]:
    """The data sets of the generators."""
    for kind in SYNTHETIC_KINDS:
        for users, items, mean in SIZES:
            data = generate(
                kind=kind, users=users, items=items, mean_history=mean, seed=1000 + seed
            )
            yield dataclasses.replace(data, name=f"{kind}, {users} x {items} x {mean}")
    for kind in ("planted", "additive"):
        rng = np.random.default_rng(seed)
        pairs = pairs_of(generate(kind=kind, users=400, items=500, seed=2000 + seed))
        yield pairs.dataset(f"{kind}, random", part=random_parts(pairs, rng))
        text = pairs._replace(features={"text": pairs.features["text"]})
        yield text.dataset(f"{kind}, text")
        tail = heavier_tail(pairs, rng)
        yield tail.dataset(f"{kind}, tail", part=random_parts(tail, rng))


def compared(dataset: Dataset) -> dict[str, Any]:
    """One data set: the closed form, and its difference from each baseline.

    Returns:
      {"dataset", "users", "items", "slice", the selected "content", "normalization", "recency",
      "transitions" and "ials" (parts and l2, or nothing), "valid" and "test": NDCG@50 in percent,
      "baselines": {name: {"valid", "test", "difference": the mean over users of ours minus theirs
      on test, "error": its standard error}}}.
    """
    selection = resolve_selection(parse_selection("auto"), dataset)
    weighted = dataset
    if dataset.train.has_times:
        recent = dataset.train.weighted_by_recency(RECENCY)
        weighted = dataclasses.replace(dataset, train=recent)
    ranks = evaluate_baselines(weighted, selection=selection).ranks
    found = ease_initialization(dataset, WIDTH, Wanted.of(InitConfig()))
    scorer = lambda users: found.vectors[users] @ found.items.T
    ours = {
        part: _gains(rank(scorer, dataset, part), dataset, part, selection)
        for part in ("valid", "test")
    }
    baselines = {}
    for name, of_parts in ranks.items():
        if name in TRIVIAL:
            continue
        theirs = {part: _gains(of_parts[part], dataset, part, selection) for part in ours}
        ahead = ours["test"] - theirs["test"]
        baselines[name] = {
            **{part: float(np.mean(gains)) for part, gains in theirs.items()},
            "difference": float(np.mean(ahead)),
            "error": float(np.std(ahead, ddof=1) / np.sqrt(len(ahead))),
        }
    return {
        "dataset": dataset.name,
        "users": dataset.num_users,
        "items": dataset.num_items,
        "slice": selection.slice,
        **{
            key: float(getattr(found, key))
            for key in ("content", "normalization", "recency", "transitions")
        },
        "ials": list(found.ials or ()),
        **{part: float(np.mean(gains)) for part, gains in ours.items()},
        "baselines": baselines,
    }


def _gains(ranks: Ranks, dataset: Dataset, part: str, selection: Selection) -> np.ndarray:
    """float64 [C], in percent: the NDCG@50 of the users with a target in the slice."""
    select = slices(dataset, part)[selection.slice]
    metrics = user_metrics(ranks.ahead, ranks.tied, getattr(dataset, part), select, ks=(50,))
    found = metrics["ndcg@50"]
    return 100 * found[~np.isnan(found)]


def against(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Wins and losses against each baseline, and against the best of each data set.

    Returns:
      {name: {"datasets", "wins": number of data sets with a higher mean, "losses", "significant
      wins", "significant losses", "mean" and "worst": relative difference in percent}}.
    """
    pairs: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        baselines = row["baselines"]
        for part, title in BEST.items():
            best = max(baselines.values(), key=operator.itemgetter(part))
            pairs.setdefault(title, []).append(best)
        for name, values in baselines.items():
            pairs.setdefault(name, []).append(values)
    result = {}
    for name, values in pairs.items():
        ahead = np.array([value["difference"] for value in values])
        error = np.array([value["error"] for value in values])
        relative = 100 * ahead / np.maximum([value["test"] for value in values], 1e-9)
        result[name] = {
            "datasets": len(values),
            "wins": int(np.sum(ahead > 0)),
            "losses": int(np.sum(ahead < 0)),
            "significant wins": int(np.sum(ahead > SIGNIFICANT * error)),
            "significant losses": int(np.sum(ahead < -SIGNIFICANT * error)),
            "mean": float(np.mean(relative)),
            "worst": float(np.min(relative)),
        }
    return result


def shown(rows: Sequence[dict[str, Any]]) -> Table:
    """The result of `against` as a table."""
    table = Table(title=f"Round 0 of the defaults against baselines, {len(rows)} data sets")
    table.add_column("baseline")
    for name in ("data sets", "wins", "losses", "significant", "mean difference", "worst"):
        table.add_column(name, justify="right")
    for name, found in against(rows).items():
        significant = f"{found['significant wins']} / {found['significant losses']}"
        counts = (str(found[key]) for key in ("datasets", "wins", "losses"))
        differences = (f"{found[key]:+.1f} %" for key in ("mean", "worst"))
        table.add_row(name, *counts, significant, *differences)
    return table


def main() -> None:
    if FLAGS.seed < 0:
        raise InputError(f"--seed={FLAGS.seed}: give at least 0")
    command = {"datasets": list(FLAGS.datasets), "seed": FLAGS.seed}
    path, rows = Path(FLAGS.json) if FLAGS.json else None, []
    if path is not None and path.exists():
        before = json.loads(path.read_text())
        if before["command"] != command:
            raise InputError(f"--json={path}: has the results of {before['command']}; give another")
        rows = before["rows"]
    known = {row["dataset"] for row in rows}
    sources = (
        derived(name, load_dataset(name, data_root=FLAGS.data_root), FLAGS.seed)
        for name in FLAGS.datasets
    )
    for dataset in (each for source in (*sources, generated(FLAGS.seed)) for each in source):
        if dataset.name in known:
            continue
        rows.append(compared(dataset))
        row = rows[-1]
        best = max(row["baselines"].items(), key=lambda item: item[1]["valid"])
        print(
            f"{row['dataset']}: {row['test']:.1f}; {best[0]} {best[1]['test']:.1f}; content "
            f"{row['content']:g}, normalization {row['normalization']:g}, recency "
            f"{row['recency']:g}, transitions {row['transitions']:g}, iALS {row['ials']}",
            flush=True,
        )
        if path is not None:
            result = {"command": command, "rows": rows, "against": against(rows)}
            path.write_text(json.dumps(result, indent=2))
    Console(width=120).print(shown(rows))


if __name__ == "__main__":
    flags.DEFINE_list("datasets", [], "Names in --data_root, from which data sets are derived.")
    flags.DEFINE_integer("seed", 0, "Draws other halves, splits and generated data.")
    define_config_flags("data", only=("data_root",))
    define_path("json", "", "JSON file for the results.")
    launch(main, __doc__)
