"""The attacks find what is there, and nothing where there is nothing."""

import numpy as np
import pytest
from scipy import sparse

from fedvlr_jax.commands.privacy import (
    clip_bound,
    defences,
    half_of,
    line,
    stated_of,
    with_contents,
)
from fedvlr_jax.config import Config
from fedvlr_jax.data.arrays import from_arrays
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.plans import PLANS
from fedvlr_jax.privacy.attacks import (
    ShadowClient,
    coherence,
    membership_auc,
    positives_by_inversion,
    positives_by_shadow,
    positives_by_sign,
    score_of,
)
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.curious_server import client_uploads, on_histories
from fedvlr_jax.uplink import Needs


@pytest.mark.parametrize("users", [1, 2, 5])
def test_the_membership_attack_needs_two_halves(users):
    pairs = [(user, item) for user in range(users) for item in range(3)]
    user, item = zip(*pairs, strict=True)
    dataset = from_arrays(user=user, item=item)
    if users == 1:
        with pytest.raises(InputError, match="dataset=arrays: has 1 user"):
            half_of(dataset, 0)
        return
    assert half_of(dataset, 0).sum() == -(-users // 2)


def test_the_side_of_fewer_rows_is_the_history():
    theta = np.array([0.6, -0.8])
    upload = np.outer([-1.0, 0.3, 0.0, 0.4, -0.9, 0.2], theta)
    expected = [True, False, False, False, True, False]
    np.testing.assert_array_equal(positives_by_sign(upload), expected)
    np.testing.assert_array_equal(positives_by_sign(-3 * upload), expected)
    assert not positives_by_sign(np.zeros((4, 2))).any()


def test_inversion_takes_two_means_along_the_vector():
    """-1.0 and -0.9 are one group; small rows of either sign are the other."""
    theta = np.array([0.6, -0.8])
    upload = np.outer([-1.0, 0.05, -0.04, 0.02, -0.9, -0.03], theta)
    expected = [True, False, False, False, True, False]
    np.testing.assert_array_equal(positives_by_inversion(upload), expected)
    np.testing.assert_array_equal(positives_by_inversion(-3 * upload), expected)
    assert positives_by_sign(upload).tolist() != expected
    assert not positives_by_inversion(np.zeros((4, 2))).any()


@pytest.mark.parametrize("seed", range(5))
def test_a_shadow_client_finds_the_history_of_a_client_like_it(seed):
    """40 of 300 rows, by logistic regression from a drawn vector; then with noise that hides it."""
    rng = np.random.default_rng(seed)
    items, theta = 0.1 * rng.normal(size=(300, 6)), 0.1 * rng.normal(size=6)
    history = np.arange(300) < 40
    upload = np.zeros_like(items)
    for _ in range(3):
        chance = 1 / (1 + np.exp(-items @ theta))
        step = np.where(history, chance - 1, 4 * 40 / 260 * chance)
        upload += np.outer(step, theta)
        theta = theta - 3.0 * step @ items / 200
    client = ShadowClient(epochs=3, rate=3.0, negatives=4)
    np.testing.assert_array_equal(positives_by_shadow(upload, items, client), history)
    hidden = upload + 30 * np.abs(upload).max() * rng.normal(size=upload.shape)
    guess = positives_by_shadow(hidden, items, client)
    # A guess of half the rows has a recall of a half; 40 rows: .08, three of them.
    assert abs(guess[history].mean() - guess.mean()) < 0.25


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


BASE = dict(init="random", width=8, fusion="none", local_epochs=2, baselines=False, rounds=2)


@pytest.mark.parametrize("name", ["none", "sampled negatives", "local noise"])
def test_the_attacks_on_real_uploads(name, dataset):
    config = Config.from_flat(**(BASE | DEFENCES[name].flags))
    found = on_histories(make_simulation(config, dataset), DEFENCES[name], 100.0)
    for attack in ("sign", "inversion", "features"):
        reached, chance = found[f"{attack}_f1"], found[f"{attack}_chance"]
        if name == "local noise":
            assert reached == pytest.approx(chance, abs=0.05), attack
        elif name == "none" or attack != "features":
            assert reached >= 0.95, attack


def test_features_that_the_server_chooses_see_through_a_sum_and_not_through_noise(dataset):
    """A secure sum hides who has what, until one client's upload outweighs the others."""
    found = {}
    for name in ("secure sum", "clipped secure sum", "distributed noise"):
        config = Config.from_flat(**(BASE | DEFENCES[name].flags))
        found[name] = on_histories(make_simulation(config, dataset), DEFENCES[name], 1000.0)
    assert found["secure sum"]["sign_f1"] < 0.3 and found["secure sum"]["features_f1"] > 0.8
    hidden = found["distributed noise"]
    assert hidden["features_f1"] == pytest.approx(hidden["features_chance"], abs=0.05)


@pytest.mark.parametrize("name", ["none", "secure sum", "local noise"])
def test_the_attacks_on_uploads_with_images_and_text(name, dataset):
    """The rows of all views lie along one line, so the same attacks find the same histories."""
    flags = dict(
        init="random", width=8, fusion="bilevel", local_epochs=2, baselines=False, rounds=2
    )
    config = Config.from_flat(**(flags | DEFENCES[name].flags))
    found = on_histories(make_simulation(config, dataset), DEFENCES[name], 1000.0)
    for attack in ("sign", "inversion", "shadow"):
        reached, chance = found[f"{attack}_f1"], found[f"{attack}_chance"]
        if name == "none":
            # A shadow client has no router, so it fits several views less well.
            assert reached >= (0.8 if attack == "shadow" else 0.95), attack
        elif name == "secure sum":
            # Popular items are in many histories.
            assert reached < 0.3, attack
        else:
            assert reached == pytest.approx(chance, abs=0.06), attack
    if name == "secure sum":
        assert found["features_f1"] > 0.8


def test_contents():
    base = Config.from_flat(fusion="bilevel", clip_norm=0.3)
    found = with_contents(base, "without,with")
    assert [c.model.fusion for c in found.values()] == ["none", "bilevel"]
    assert list(with_contents(base, "with")) == ["with"]
    for wrong in ("", "both", "with,with"):
        with pytest.raises(InputError, match=f"contents={wrong}: give without, with"):
            with_contents(base, wrong)
    plain = Config.from_flat(fusion="none")
    with pytest.raises(InputError, match="contents=with: fusion=none has no image"):
        with_contents(plain, "with")


def test_the_bound_is_given_or_the_median_norm(dataset):
    given = clip_bound(Config.from_flat(**(BASE | {"clip_norm": 0.3})), dataset)
    assert given[0] == 0.3 and given[1].privacy.clip_norm == 0
    bound, plain = clip_bound(Config.from_flat(**BASE), dataset)
    simulation = make_simulation(plain, dataset)
    assert bound == np.median(client_uploads(simulation, simulation.init())[1])


@pytest.mark.parametrize("name", ["local noise", "central noise", "distributed noise"])
def test_a_delta_of_a_share_of_the_users_is_refused_before_training(name, dataset):
    base = Config.from_flat(**(BASE | {"target_delta": 0.5}))
    config = base.changed(**DEFENCES[name].flags).resolved
    with pytest.raises(InputError, match=r"target_delta=0\.5: permits to"):
        stated_of(config, dataset, DEFENCES[name])
    assert stated_of(base.resolved, dataset, DEFENCES["clipping"]) is None


def test_a_line_of_the_table(dataset):
    found = line(Config.from_flat(**BASE), dataset, DEFENCES["distributed noise"], 100.0)
    assert found["defence"] == "distributed noise" and found["epsilon"] > 1
    assert 0 <= found["membership_auc"] <= 1 and found["ndcg@50"] >= 0


@pytest.mark.parametrize("backbone", ["fedncf", "fedrap"])
def test_uploads_are_seen_one_by_one_whatever_the_plan(backbone, dataset):
    config = Config.from_flat(width=4, fusion="none", local_epochs=1, backbone=backbone)
    simulation = make_simulation(config, dataset)
    assert PLANS[simulation.plan].gives == Needs.SUM
    views, norms = client_uploads(simulation, simulation.init())
    assert views.shape == (60, 200, 4) and (norms > 0).all()
