"""Small random tasks in float64, and states and cohorts for them."""

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import NegativePool, pad_histories
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.federated.aggregator import make_aggregator
from fedvlr_jax.federated.local import Task
from fedvlr_jax.federated.model import make_model
from fedvlr_jax.federated.plans import PLANS
from fedvlr_jax.federated.server_optimizer import server_optimizer
from fedvlr_jax.types import Cohort, ServerState

VIEWS = ["id", "table", "text", "image", "sum", "mlp", "gate", "attention", "cross_attention"]
LONGEST_HISTORY = 4


def random_task(rng, **choices):
    """A task over 7 to 10 items; `choices` overrule what is drawn."""
    num_items = int(rng.integers(7, 11))
    views = rng.choice(VIEWS, int(rng.integers(2, 4)), replace=False)
    values = dict(
        views=",".join(views),
        width=4,
        router_hidden=3,
        init_scale=0.7,
        fedrap_repulsion=0.3,
        fedrap_l1=0.2,
        local_epochs=int(rng.integers(1, 4)),
        num_negatives=int(rng.integers(1, 3)),
        client_lr=float(rng.uniform(0.1, 0.9)),
        router_lr=float(rng.uniform(0.1, 0.9)),
        item_lr=float(rng.uniform(0.1, 0.9)),
        delta_lr=float(rng.uniform(0.1, 0.9)),
        client_decay=float(rng.choice([0.0, 0.1])),
        # A plain step keeps the comparison about the round: Adam divides tiny numbers
        # by their own size, which turns rounding noise into whole steps.
        server_optimizer="momentum",
        server_lr_items=0.5,
        server_lr_fusion=0.3,
        server_lr_head=0.4,
        server_decay=float(rng.choice([0.0, 0.1])),
        clip_norm=float(rng.choice([0.0, 0.05])),
        history_weight=float(rng.choice([0.0, 0.7])),
        loss=str(rng.choice(["bce", "softmax"])),
        recency=float(rng.choice([0.0, 0.7])),
    )
    config = Config.from_flat(**{**values, **choices})
    model = make_model(config, num_items, {"text": 5, "image": 3})
    member = rng.random(num_items) < 0.8
    member[:2] = True
    pool = NegativePool(
        jnp.asarray(np.flatnonzero(member), jnp.int32),
        jnp.asarray(np.cumsum(member) - 1, jnp.int32),
        jnp.asarray(member),
    )
    return Task(model, config, pool, make_aggregator(config, num_users=50))


def plans_of(task):
    """The names of the plans that can train a task."""
    needs = task.aggregator.needs
    return [name for name, plan in PLANS.items() if plan.fits(task) and plan.gives >= needs]


def random_state(rng, task, num_clients):
    """(server, stacked private rows, cohort, features); all parameters away from zero."""
    model, federation = task.model, task.config.federation
    users, items = [], []
    for user in range(num_clients):
        # One history is always the longest, so that equal tasks have equal shapes.
        length = LONGEST_HISTORY if user == 0 else int(rng.integers(1, LONGEST_HISTORY + 1))
        users += [user] * length
        items += list(rng.choice(np.asarray(task.pool.item), length, replace=False))
    train = Interactions.from_pairs(
        user=np.array(users),
        item=np.array(items),
        time=rng.integers(0, 4, len(items)),
        num_users=num_clients,
        num_items=model.num_items,
    )
    if task.config.data.recency:
        train = train.weighted_by_recency(task.config.data.recency)
    key = jax.random.key(0)
    # Drawn by NumPy from shapes alone: compiling the initialisers would take longer than the test.
    drawn = lambda tree: jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape), tree)
    shared = drawn(jax.eval_shape(model.init_shared, key))
    optimizer = jax.eval_shape(
        server_optimizer(federation.server_optimizer, federation.rates).init, shared
    )
    server = ServerState(
        round=np.int32(rng.integers(1, 9)),
        key=jax.random.key(int(rng.integers(1000))),
        shared=shared,
        optimizer=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), optimizer),
    )
    client = jax.eval_shape(model.init_private, key)
    private = drawn(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_clients, *x.shape), x.dtype), client)
    )
    responded = rng.random(num_clients) < 0.7
    responded[rng.integers(num_clients)] = True
    cohort = Cohort(
        histories=pad_histories(train, np.arange(num_clients)),
        responded=responded,
        local_epochs=rng.integers(1, federation.local_epochs + 1, num_clients, np.int32),
        weight=rng.uniform(0.5, 2.0, num_clients),
    )
    features = {
        "text": rng.normal(size=(model.num_items, 5)),
        "image": rng.normal(size=(model.num_items, 3)),
    }
    return server, private, cohort, features


def assert_close(actual, expected, tolerance=1e-6):
    """Relative to the largest number of each leaf."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        atol = tolerance * (1e-3 + abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=atol)
