"""The closed-form start under central privacy, alone: accuracy against epsilon.

    python -m benchmarks.private_start --users=10000

All of epsilon is spent on the exchanges, and no round follows. --init=ease has one exchange,
--init=spectral has --exchanges. Prints HR@50 and NDCG@50 of the test targets of up to 2,000 users,
as means over --seeds noises. The first line of --init=ease is its control: the features alone,
without a release.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from absl import flags

from fedvlr_jax.commands.launching.launch import launch
from fedvlr_jax.config import InitConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.features import centred_unit_rows
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.ease_settings import Wanted
from fedvlr_jax.federated.private_ease import private_autoencoder, private_ease_initialization
from fedvlr_jax.federated.private_initialization import private_spectral_initialization
from fedvlr_jax.privacy import accounting
from fedvlr_jax.privacy.release import Release

FLAGS = flags.FLAGS
SPECTRAL_WIDTH, EASE_WIDTH = 64, 128
DEFAULT = InitConfig()
MOST_USERS = 2000
EPSILONS = (16.0, 4.0, 1.0)


def accuracy(dataset: Dataset, items: np.ndarray, vectors: np.ndarray) -> tuple[float, float]:
    """(HR@50, NDCG@50) in percent, over the test targets of evenly spaced users."""
    users = np.arange(0, dataset.num_users, max(1, dataset.num_users // MOST_USERS))
    scores = vectors[users].astype(np.float32) @ items.astype(np.float32).T
    scores[dataset.train.matrix[users].toarray() > 0] = -np.inf
    test, gains = dataset.test, []
    for row, user in zip(scores, users, strict=True):
        for item in test.item[test.indptr[user] : test.indptr[user + 1]]:
            ahead = np.sum(row > row[item])
            gains.append(1 / np.log2(ahead + 2) if ahead < 50 else 0.0)
    found = np.array(gains)
    return 100 * float(np.mean(found > 0)), 100 * float(np.mean(found))


def exchange_noise(users: int, exchanges: int, epsilon: float) -> float:
    """The noise multiplier with which the exchanges alone spend `epsilon`; delta below 1 / N."""
    release = Release("everyone", users, users, users, exchanges=exchanges)
    delta = min(1e-5, 0.5 / users)
    return accounting.calibrate_exchanges(release, epsilon, delta, 1.0)


def start(dataset: Dataset, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(items [I, d], vectors [N, d]) of --init, with noise of this multiplier."""
    if FLAGS.init == "spectral":
        return private_spectral_initialization(
            dataset.train,
            SPECTRAL_WIDTH,
            exchanges=FLAGS.exchanges,
            multiplier=noise,
            shrinkage=DEFAULT.init_shrinkage,
            seed=seed,
        )
    found = private_ease_initialization(
        dataset, EASE_WIDTH, Wanted.of(DEFAULT), multiplier=noise, seed=seed
    )
    return found.items, found.vectors


def features_alone(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(items [I, d], vectors [N, d]) of --init=ease without any contribution of the clients."""
    model, _ = private_autoencoder(
        np.zeros((dataset.num_items, dataset.num_items)),
        [centred_unit_rows(rows) for rows in dataset.features.values()],
        EASE_WIDTH,
        Wanted.of(DEFAULT),
        num_users=dataset.num_users,
        multiplier=0.0,
    )
    return model.items, model.vectors(dataset.train.weighted_matrix)


def main() -> None:
    users = FLAGS.users
    for name in ("users", "items", "exchanges", "seeds"):
        value: Any = FLAGS[name].value
        if value < 1:
            raise InputError(f"--{name}={value}: give at least 1")
    exchanges = FLAGS.exchanges if FLAGS.init == "spectral" else 1
    synthetic = {"users": users, "items": FLAGS.items, "seed": FLAGS.data_seed}
    dataset = load_dataset("synthetic", synthetic=synthetic)
    if FLAGS.init == "ease":
        hr, ndcg = accuracy(dataset, *features_alone(dataset))
        print(f"{users} users, features alone: HR@50 {hr:.1f}, NDCG@50 {ndcg:.2f}", flush=True)
    for epsilon in EPSILONS:
        noise = exchange_noise(users, exchanges, epsilon)
        found = np.array(
            [accuracy(dataset, *start(dataset, noise, seed)) for seed in range(FLAGS.seeds)]
        )
        hr, ndcg = found.mean(axis=0)
        print(
            f"{users} users, epsilon {epsilon:g}, noise multiplier {noise:.3f}: "
            f"HR@50 {hr:.1f}, NDCG@50 {ndcg:.2f} ± {found[:, 1].std():.2f}",
            flush=True,
        )


if __name__ == "__main__":
    flags.DEFINE_enum("init", "ease", ["ease", "spectral"], "The closed form.")
    flags.DEFINE_integer("users", 10_000, "Clients.")
    flags.DEFINE_integer("items", 2000, "Items.")
    flags.DEFINE_integer("data_seed", 0, "Seed of the synthetic data.")
    flags.DEFINE_integer("exchanges", 3, "Exchanges of --init=spectral.")
    flags.DEFINE_integer("seeds", 3, "Noises.")
    launch(main, __doc__)
