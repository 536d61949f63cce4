"""The clients' defence by popular items: its loss in NumPy, its plans, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.plans import choose_plan
from fedvlr_jax.federated.popular import announced, popular_memory, remember_popular
from fedvlr_jax.federated.round import make_round
from fedvlr_jax.simulation import make_simulation
from tests.federated.cases import assert_close, plans_of, random_state, random_task

ITEMS, WIDTH, SHOWN = 8, 3, 2
HISTORIES = ([0, 1, 2], [0, 3], [1, 4, 5, 6], [2])
WEIGHTS = dict(defense_similarity=0.7, defense_distance=0.4)


def small_data():
    pairs = [(user, item) for user, items in enumerate(HISTORIES) for item in items]
    user, item = np.array(pairs).T
    part = lambda user, item: Interactions.from_pairs(
        user=user, item=item, num_users=len(HISTORIES), num_items=ITEMS
    )
    return Dataset(
        name="four",
        train=part(user, item),
        valid=part([0], [7]),
        test=part([], []),
        features={},
        user_ids=np.arange(len(HISTORIES)).astype(str),
        item_ids=np.arange(ITEMS).astype(str),
        split="predefined",
    )


def config_of(**choices):
    plain = dict(fusion="none", width=WIDTH, local_epochs=2, num_negatives=2, init_scale=0.5)
    plain |= dict(server_optimizer="sgd", server_lr_items=4.0, server_decay=0.0, client_lr=0.6)
    plain |= dict(client_decay=0.0, defense_items=SHOWN, eval_every=1, devices=1)
    return Config.from_flat(**{"init": "random", **plain, **WEIGHTS, **choices})


def loss_in_numpy(table, vector, bias, history, popular, shown):
    """One client's loss; `popular` has the numbers of the popular items, `shown` their vectors."""
    positive = np.isin(np.arange(ITEMS), history).astype(float)
    free = 1 - positive
    negative = 2 * len(history) * free / free.sum()
    scores = table @ vector + bias
    rows = positive * np.logaddexp(0, -scores) + negative * np.logaddexp(0, scores)
    loss = rows.sum() / (3 * len(history))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    softmax = lambda x: np.exp(x) / np.exp(x).sum()
    for rank, v in enumerate(shown):
        # Ranks 1 and 2 of two: (2^2, 1^2) / 5.
        weight = (4 / 5, 1 / 5)[rank]
        counts = np.where(np.isin(np.arange(ITEMS), popular), 0, positive + negative)
        loss -= 0.7 * weight * np.average(unit(table) @ unit(v), weights=counts)
        p, q = softmax(vector), softmax(v)
        loss -= 0.4 * weight * np.mean(p * np.log(p / q))
    return loss


def gradient(function, at):
    found, step = np.zeros_like(at), 1e-6
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = step
        found[place] = (function(at + moved) - function(at - moved)) / (2 * step)
    return found


def rounds_in_numpy(table, vectors, biases, count):
    """The ID table and the clients' vectors after `count` rounds of plain steps."""
    first, popular = table.copy(), np.array([], int)
    for number in range(count):
        if number == 1:
            moved = np.linalg.norm(table - first, axis=1)
            popular = np.argsort(-moved)[:SHOWN]
        shown = table[popular]
        total = np.zeros_like(table)
        for user, history in enumerate(HISTORIES):
            for _ in range(2):
                rest = history, popular, shown
                v, b = vectors[user].copy(), biases[user].copy()
                total += gradient(lambda t: loss_in_numpy(t, v, b, *rest), table)  # noqa: B023
                vectors[user] -= 0.6 * gradient(
                    lambda x: loss_in_numpy(table, x, b, *rest),  # noqa: B023
                    v,
                )
                biases[user] -= 0.6 * gradient(
                    lambda x: loss_in_numpy(table, v, x, *rest),  # noqa: B023
                    b,
                )
        table = table - 4.0 * total / len(HISTORIES)
    return table, vectors


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("plan", ["catalogue", "gathered"])
def test_three_rounds_against_numpy(plan):
    simulation = make_simulation(config_of(plan=plan), small_data())
    state = simulation.init(1)
    order = np.concatenate(simulation.buckets)
    rows = lambda name: np.concatenate(
        [
            np.asarray(b["head"][name])[: len(u)]
            for b, u in zip(state.private, simulation.buckets, strict=True)
        ]
    )[np.argsort(order)].astype(float)
    start = np.asarray(state.server.shared["items"], float)
    expected, vectors = rounds_in_numpy(start, rows("vector"), rows("bias"), 3)
    state, _ = simulation.run_rounds(state, 3)
    np.testing.assert_allclose(state.server.shared["items"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows("vector"), vectors, rtol=1e-5, atol=1e-6)


def test_popular_items_move_most_to_the_second_broadcast_and_stay():
    memory = popular_memory(config_of(), (4, 1, 2))
    rows = lambda *values: jnp.asarray(values, float)[:, None, None] * jnp.ones((4, 1, 2))
    at = lambda number: jnp.asarray(number, jnp.int32)
    memory = remember_popular(memory, rows(1, 1, 1, 1), at(0))
    assert not memory["known"]
    # A round without a response: the second broadcast equals the first.
    memory = remember_popular(memory, rows(1, 1, 1, 1), at(1))
    assert not memory["known"]
    memory = remember_popular(memory, rows(1, 3, 0, 1), at(2))
    assert memory["known"] and memory["item"].tolist() == [1, 2]
    memory = remember_popular(memory, rows(9, 3, 0, 9), at(3))
    assert memory["item"].tolist() == [1, 2]


def test_a_row_of_zeros_has_no_gradient():
    simulation = make_simulation(config_of(defense_distance=0.0), small_data())
    state, _ = simulation.run_rounds(simulation.init(0), 1)
    items = state.server.shared["items"].at[7].set(0.0)
    state = state._replace(
        server=state.server._replace(shared={**state.server.shared, "items": items})
    )
    _, metrics = simulation.run_rounds(state, 1)
    assert metrics.finite.all()


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    "choices", [dict(backbone="pfedrec"), dict(backbone="fedncf", defense_distance=0.0)]
)
def test_plans_agree(choices):
    rng = np.random.default_rng(4)
    fixed = dict(fusion="bilevel", negatives="expected", upload="gradient", clip_norm=0.0)
    task = random_task(rng, **{**fixed, **WEIGHTS, "defense_items": 3, **choices})
    assert plans_of(task) == ["catalogue", "gathered"]
    server, private, cohort, features = random_state(rng, task, 4)
    shape = task.model.num_items, len(task.model.fusion.names), task.model.width
    memory = popular_memory(task.config, shape) | {"first": rng.normal(size=shape)}
    server = server._replace(popular=memory)
    after = [
        jax.jit(make_round(task, plan))(
            server, (private,), (cohort,), features, task.config.federation.rates
        )
        for plan in plans_of(task)
    ]
    assert after[0][0].popular["known"]
    assert_close(after[0][0].shared, after[1][0].shared, 1e-9)
    assert_close(after[0][1], after[1][1], 1e-9)


def test_without_the_defence_nothing_is_remembered():
    config = Config.from_flat(fusion="none", devices=1)
    assert popular_memory(config, (4, 1, 2)) == ()
    server = make_simulation(config, small_data()).init(0).server
    assert server.popular == () and announced(server, jnp.zeros((4, 1, 2))) == (None, ())


@pytest.fixture(scope="module")
def after_four_rounds():
    simulation = make_simulation(config_of(), small_data())
    return simulation.run_rounds(simulation.init(0), 4)[0]


@pytest.mark.parametrize("choices", [{}, dict(store="host")])
def test_a_run_in_two_parts(choices, after_four_rounds):
    expected = after_four_rounds
    other = make_simulation(config_of(**choices), small_data())
    state, _ = other.run_rounds(other.init(0), 1)
    state, _ = other.run_rounds(other.unpack(other.pack(state)), 3)
    # The tests compile without optimisation, where tiny products depend on their padding.
    tolerance = 1e-6 if choices else 0
    for one, two in zip(
        jax.tree.leaves((expected.server.shared, expected.server.popular)),
        jax.tree.leaves((state.server.shared, state.server.popular)),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "choices, piece",
    [
        (dict(backbone="fedavg"), "--defense_distance=0.4: --backbone=fedavg"),
        (dict(plan="dense"), "--plan=dense"),
        (dict(backbone="fedrap", plan="factored"), "--plan=factored"),
        (dict(defense_items=9), "--defense_items=9: there are 8 items"),
        (dict(defense_similarity=-1.0), "--defense_similarity=-1.0"),
        (dict(defense_similarity=0.0, defense_distance=0.0), "--defense_items=2: needs"),
        (dict(buffer=2, cohort=3), "--buffer=2: clients on several versions"),
    ],
)
def test_what_cannot_have_it_is_refused(choices, piece):
    with pytest.raises(InputError) as caught:
        make_simulation(config_of(**choices), small_data())
    assert piece in caught.value.line


def test_the_choice_of_a_plan():
    task = make_simulation(config_of(), small_data()).task
    assert choose_plan(task, [4], [4]) == "catalogue"
