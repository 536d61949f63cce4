"""SASRec against a literal forward pass in NumPy; order, padding and packing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.centralized import CentralizedConfig, make_centralized
from fedvlr_jax.centralized.sasrec import Network, sasrec
from fedvlr_jax.centralized.windows import (
    EMPTY,
    Rows,
    histories_of,
    items_at,
    last_places,
    pack,
)
from fedvlr_jax.config import EvaluationConfig
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError

ITEMS, LENGTH, WIDTH = 9, 6, 4


def interactions(user, item, time, users=3, items=ITEMS):
    return Interactions.from_pairs(
        user=np.array(user), item=np.array(item), time=time, num_users=users, num_items=items
    )


def dataset_of(train, valid, test, num_items):
    """A data set without features; each part has a list of items for each user, oldest first."""
    parts = {}
    for name, lists in (("train", train), ("valid", valid), ("test", test)):
        user = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
        time = np.concatenate([np.arange(len(items)) for items in lists])
        parts[name] = interactions(user, np.concatenate(lists), time, len(lists), num_items)
    ids = {"user_ids": np.arange(len(train)).astype(str), "item_ids": np.arange(num_items)}
    return Dataset(name="made", **parts, features={}, **ids, split="predefined")


def one_user(items):
    """A row of one user, its items at the right end: item [1, L] and `Rows`."""
    empty = LENGTH - len(items)
    row = lambda values: jnp.asarray([[EMPTY] * empty + list(values)], jnp.int32)
    rows = Rows(row([0] * len(items)), row(range(len(items), 0, -1)))
    return row(items), rows


@pytest.fixture(scope="module")
def network():
    """The network, and parameters that are far from their initial values."""
    network = Network(ITEMS, LENGTH, WIDTH)
    params = network.init(jax.random.key(0), *one_user([1]))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.5 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return network, jax.tree.unflatten(tree, moved)


def literal(params, items, first):
    """The state after the last of `items`, the first of which has the position `first`.

    The equations of the paper, one place at a time.
    """
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])

    def norm(x, name):
        scale, bias = p[name]["scale"], p[name]["bias"]
        return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * scale + bias

    # The width is 4, and sqrt(4) = 2.
    x = [2.0 * p["items"][i] + p["positions"][first + k] for k, i in enumerate(items)]
    for block in ("0", "1"):
        normed = [norm(v, "attention_norm" + block) for v in x]
        query, key, value = (p[n + block]["kernel"] for n in ("query", "key", "value"))
        attended = []
        for place in range(len(items)):
            raw = [(normed[place] @ query) @ (normed[k] @ key) / 2.0 for k in range(place + 1)]
            share = np.exp(raw) / np.exp(raw).sum()
            attended.append(sum(share[k] * (normed[k] @ value) for k in range(place + 1)))
        x = [v + a for v, a in zip(x, attended, strict=True)]
        hidden, output = p["hidden" + block], p["output" + block]
        for place, v in enumerate(x):
            inner = norm(v, "forward_norm" + block) @ hidden["kernel"] + hidden["bias"]
            x[place] = v + np.maximum(inner, 0) @ output["kernel"] + output["bias"]
    return norm(x[-1], "norm")


@pytest.mark.parametrize("items", [[3], [3, 5, 0], [8, 2, 7, 3, 5, 0]])
def test_the_state_is_that_of_a_literal_forward_pass(items, network):
    network, params = network
    state = network.apply(params, *one_user(items))[0, -1]
    expected = literal(params, items, LENGTH - len(items))
    np.testing.assert_allclose(state, expected, rtol=2e-5, atol=2e-5)


def test_later_items_do_not_change_a_state(network):
    network, params = network
    first = network.apply(params, *one_user([8, 2, 7, 3, 5, 0]))
    other = network.apply(params, *one_user([8, 2, 7, 3, 1, 4]))
    np.testing.assert_array_equal(first[0, :4], other[0, :4])
    assert np.abs(first[0, 4:] - other[0, 4:]).min(axis=0).max() > 0.1


def test_the_order_of_earlier_items_changes_a_state(network):
    network, params = network
    first, other = (
        network.apply(params, *one_user(items))[0, -1] for items in ([8, 2, 7], [2, 8, 7])
    )
    assert np.abs(first - other).max() > 0.1


def test_neither_padding_nor_a_neighbour_changes_a_state(network):
    network, params = network
    item, rows = one_user([3, 5, 0])
    alone = network.apply(params, item, rows)[0, 3:]
    # The three empty places before become the items of another user.
    item = item.at[0, :3].set(jnp.array([7, 1, 6]))
    shared = Rows(rows.user.at[0, :3].set(1), rows.age.at[0, :3].set(jnp.array([3, 2, 1])))
    beside = network.apply(params, item, shared)[0]
    np.testing.assert_allclose(beside[3:], alone, rtol=1e-6, atol=1e-6)
    neighbour = network.apply(params, *one_user([7, 1, 6]))[0, 3:]
    np.testing.assert_allclose(beside[:3], neighbour, rtol=1e-6, atol=1e-6)


def test_rows_have_the_last_items_of_every_user_in_order_of_time():
    user = [0] * 7 + [1] * 2 + [2] * 3
    item = [4, 0, 3, 7, 8, 1, 2, 6, 5, 3, 2, 4]
    time = np.array([0, 1, 2, 3, 4, 5, 6, 9, 8, 1, 1, 0])
    train = interactions(user, item, time)
    rows = pack(train.counts, LENGTH)
    found = np.asarray(items_at(histories_of(train), rows))
    # The short histories share a row. Items 2 and 3 of the last user have equal times.
    assert found.tolist() == [[5, 6, 4, 2, 3, EMPTY], [0, 3, 7, 8, 1, 2]]
    before = np.asarray(items_at(histories_of(train), rows, 1))
    assert before.tolist() == [[EMPTY, 5, EMPTY, 4, 2, EMPTY], [4, 0, 3, 7, 8, 1]]
    assert found.ravel()[last_places(rows)].tolist() == [2, 6, 3]


@pytest.fixture(scope="module")
def two_users():
    """A model of two users; the longest history has three items, so L = 2. Item 5 is not seen."""
    return sasrec(dataset_of([[4, 0, 3], [2, 1]], [[1], [0]], [[2], [3]], 6), width=WIDTH)


def loss_of(model, params, pool, rows, rate=0.0, seed=0):
    batches = model.batches(interactions([0, 0, 0, 1, 1], [4, 0, 3, 2, 1], None, 2, 6), pool, 99)
    batch = batches.draw(jax.random.key(0), batches.arrays, jnp.asarray(rows))
    data = {**model.data, "weights": {"dropout": jnp.float32(rate)}}
    return float(model.loss(params, data, batch, jax.random.key(seed)))


@pytest.mark.parametrize(("pool", "candidates"), [("seen", 5), ("catalogue", 6)])
def test_the_loss_is_the_mean_cross_entropy_of_all_steps(pool, candidates, two_users):
    params = two_users.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)
    table = np.asarray(params["params"]["items"], np.float64)
    lost = []
    # Items before, the position of the first of them, the item that follows.
    for before, first, after in (([4], 0, 0), ([4, 0], 0, 3), ([2], 1, 1)):
        scores = table[:candidates] @ literal(params, before, first)
        lost.append(np.log(np.exp(scores).sum()) - scores[after])
    assert loss_of(two_users, params, pool, [0, 1]) == pytest.approx(np.mean(lost), rel=1e-4)


def test_users_get_the_state_after_their_last_item(two_users):
    params = two_users.init(jax.random.key(0))
    users, items = two_users.embeddings(params, two_users.data)
    expected = [literal(params, [0, 3], 0), literal(params, [2, 1], 0)]
    np.testing.assert_allclose(users, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(items, params["params"]["items"])


def test_rows_of_users_with_one_item_have_a_loss_of_zero():
    train = [[4, 0, 3], *([k % 6] for k in range(4))]
    model = sasrec(dataset_of(train, [[1]] * 5, [[2]] * 5, 6), width=WIDTH)
    batches = model.batches(interactions([0], [0], None, 5, 6), "seen", 2)
    batch = batches.draw(jax.random.key(0), batches.arrays, jnp.array([0]))
    data = {**model.data, "weights": {"dropout": jnp.float32(0)}}
    params = model.init(jax.random.key(0))
    loss, gradient = jax.value_and_grad(model.loss)(params, data, batch, jax.random.key(0))
    assert loss == 0 and not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_the_rate_of_dropout_acts_in_training_alone(two_users):
    params = two_users.init(jax.random.key(0))
    first, second, none = (
        loss_of(two_users, params, "seen", [0, 1], rate, seed)
        for rate, seed in ((0.5, 0), (0.5, 1), (0.0, 0))
    )
    assert len({first, second, none}) == 3
    vectors = [
        two_users.embeddings(params, {**two_users.data, "weights": {"dropout": jnp.float32(rate)}})
        for rate in (0.0, 0.5)
    ]
    np.testing.assert_array_equal(*(users for users, _ in vectors))


def test_each_epoch_ends_long_histories_at_random():
    """With L = 50, the 53 items of the first user have windows of 51 items that end at 51 to 53."""
    walks = [list(range(53)), [3, 2, 1]]
    model = sasrec(dataset_of(walks, [[58], [5]], [[59], [6]], 60), width=WIDTH)
    ends = {
        tuple(model.prepare(model.data, jax.random.key(k))["histories"].end.tolist())
        for k in range(30)
    }
    assert ends == {(51, 56), (52, 56), (53, 56)}


def on_a_cycle(users=40, items=30, history=8):
    """Each user walks around the cycle 0, 1, ..., items - 1, from a place of their own."""
    starts = np.random.default_rng(0).integers(items, size=users)
    walks = (starts[:, None] + np.arange(history + 2)) % items
    train, valid, test = walks[:, :history], walks[:, history:-1], walks[:, -1:]
    return dataset_of(list(train), list(valid), list(test), items)


def test_it_learns_a_cycle():
    """The next item is the first of all, and the one after it is not."""
    dataset = on_a_cycle()
    config = CentralizedConfig(model="sasrec", width=16, batch_size=100, epochs=30)
    evaluation = EvaluationConfig(ks="10", eval_every=10)
    ranks = make_centralized(config, evaluation, dataset).fit(0, 0.01, {"dropout": 0.1}).ranks
    assert (ranks["valid"].ahead == 0).mean() > 0.95
    # Under the strict protocol the next item is masked at test.
    assert (ranks["test"].ahead <= 3).mean() > 0.5


def test_what_it_cannot_use_is_refused():
    dataset = on_a_cycle()
    train = dataset.train
    still = interactions(train.users, train.item, None, dataset.num_users, dataset.num_items)
    with pytest.raises(InputError, match="no user of made has train items of two different times"):
        sasrec(dataclasses.replace(dataset, train=still))
    trainer = make_centralized(CentralizedConfig(model="sasrec"), EvaluationConfig(), dataset)
    for rate in (1.0, -0.1, float("nan")):
        with pytest.raises(
            InputError, match=r"weights=dropout=.*: give at least 0 and less than 1"
        ):
            trainer.fit(0, 0.01, {"dropout": rate})
