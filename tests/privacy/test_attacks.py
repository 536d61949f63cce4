"""The attacks find what is there, and nothing where there is nothing."""

import numpy as np
import pytest
from scipy import sparse

from fedvlr_jax.commands.privacy import by_sign, client_uploads, defences
from fedvlr_jax.config import Config
from fedvlr_jax.data.registry import load_dataset
from fedvlr_jax.federated.plans import PLANS
from fedvlr_jax.privacy.attacks import coherence, membership_auc, positives_by_sign, score_of
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.uplink import Needs


def test_the_side_of_fewer_rows_is_the_history():
    theta = np.array([0.6, -0.8])
    upload = np.outer([-1.0, 0.3, 0.0, 0.4, -0.9, 0.2], theta)
    expected = [True, False, False, False, True, False]
    np.testing.assert_array_equal(positives_by_sign(upload), expected)
    np.testing.assert_array_equal(positives_by_sign(-3 * upload), expected)
    assert not positives_by_sign(np.zeros((4, 2))).any()


def test_the_score_of_a_guess_by_hand():
    histories = sparse.csr_array(np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]))
    guess = np.array([[True, False, True, False, False], [False, False, True, True, True]])
    found = score_of(guess, histories)
    assert (found.precision, found.recall, found.f1) == pytest.approx((0.75, 0.75, 0.75))
    # Of 2 and 3 random items of 5: .8 and 1.8 are expected to be hits.
    assert found.chance == pytest.approx((2 * 0.8 / 4 + 2 * 1.8 / 6) / 2)


def test_coherence_by_hand():
    """Cosines of the pairs (0, 1), (0, 2), (1, 2) are 1, 0, 0."""
    items = np.array([[2.0, 0], [3.0, 0], [0, 1.0]])
    histories = sparse.csr_array(np.array([[1.0, 1, 0], [1, 1, 1]]))
    np.testing.assert_allclose(coherence(items, histories), [1.0, 1 / 3])


def test_membership_is_seen_in_a_table_and_not_in_another():
    rng = np.random.default_rng(0)
    histories = sparse.csr_array((rng.random((80, 300)) < 0.05).astype(float))
    member, table = np.arange(80) % 2 == 0, rng.normal(size=(300, 8))
    moved = table.copy()
    for user in np.flatnonzero(member):
        moved[histories[[user]].indices] += rng.normal(size=8)
    assert membership_auc(moved, table, histories, member) > 0.8
    other = table + rng.normal(size=table.shape)
    assert membership_auc(other, table, histories, member) == pytest.approx(0.5, abs=0.18)


@pytest.fixture(scope="module")
def dataset():
    sizes = {"users": 60, "items": 200, "seed": 0}
    return load_dataset("synthetic", data_root="", synthetic=sizes)


DEFENCES = {each.name: each for each in defences(0.1, 1.0)}


@pytest.mark.parametrize("name", ["none", "sampled negatives", "local noise", "secure sum"])
def test_the_sign_attack_on_real_uploads(name, dataset):
    base = dict(width=8, fusion="none", local_epochs=2, baselines=False)
    config = Config.from_flat(**(base | DEFENCES[name].flags))
    found = by_sign(make_simulation(config, dataset), DEFENCES[name])
    if name in ("none", "sampled negatives"):
        assert found["sign_f1"] >= 0.95
    elif name == "local noise":
        assert found["sign_f1"] == pytest.approx(found["sign_chance"], abs=0.02)
    else:
        # The sum shows what is popular, and no client's own items.
        assert found["sign_f1"] < 0.3


@pytest.mark.parametrize("backbone", ["fedncf", "fedrap"])
def test_uploads_are_seen_one_by_one_whatever_the_plan(backbone, dataset):
    config = Config.from_flat(width=4, fusion="none", local_epochs=1, backbone=backbone)
    simulation = make_simulation(config, dataset)
    assert PLANS[simulation.plan].gives == Needs.SUM
    views, norms = client_uploads(simulation, simulation.init())
    assert views.shape == (60, 200, 4) and (norms > 0).all()
