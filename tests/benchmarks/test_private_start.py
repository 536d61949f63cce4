"""The noise and the accuracy of the private start alone."""

import dp_accounting as dp
import numpy as np
import pytest

from benchmarks.private_start import accuracy, exchange_noise
from fedvlr_jax.data.loading import load_dataset


def test_the_exchanges_spend_the_whole_epsilon():
    noise = exchange_noise(1000, 3, 4.0)
    spent = dp.get_epsilon_gaussian(noise / 3**0.5, 1e-5)
    assert 3.98 < spent <= 4.0


def test_accuracy_of_a_table_that_knows_the_targets():
    """Scores are the targets themselves: every target is first of its user, but for ties."""
    sizes = {"users": 40, "items": 60, "seed": 0}
    dataset = load_dataset("synthetic", data_root="", synthetic=sizes)
    wanted = np.zeros((40, 60))
    wanted[dataset.test.users, dataset.test.item] = 1.0
    hr, ndcg = accuracy(dataset, np.eye(60), wanted)
    assert hr == 100.0 and ndcg == pytest.approx(100.0)
    assert accuracy(dataset, np.eye(60), -wanted)[1] < 30
