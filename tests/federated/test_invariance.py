"""What must not matter: padding, chunks, buckets and the order of the clients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.federated.chunking import map_chunks
from fedvlr_jax.federated.local import Broadcast, LocalInput
from fedvlr_jax.federated.round import make_broadcast, make_round, make_train
from fedvlr_jax.types import Cohort
from tests.conftest import mostly_slow
from tests.federated.cases import assert_close, plans_of, random_state, random_task

pytestmark = pytest.mark.usefixtures("double_precision")
CASES = [
    ("fcf", "bilevel", "delta", "sampled"),
    ("fedncf", "bilevel", "gradient", "sampled"),
    ("fedrap", "bilevel", "gradient", "expected"),
    ("pfedrec", "mlp", "delta", "expected"),
]


def make_case(backbone, fusion, upload, negatives):
    rng = np.random.default_rng(len(backbone))
    task = random_task(rng, backbone=backbone, fusion=fusion, upload=upload, negatives=negatives)
    return task, *random_state(rng, task, 4)


def one_round(task, plan, server, private, cohort, features):
    rates = task.config.federation.rates
    return jax.jit(make_round(task, plan))(server, private, cohort, features, rates)


def padded(task, private, cohort):
    """Three more columns of history and two more clients, none of them real."""
    weight = cohort.histories.weight
    histories = dataclasses.replace(
        cohort.histories,
        weight=None if weight is None else np.pad(weight, ((0, 2), (0, 3))),
        item=np.pad(cohort.histories.item, ((0, 2), (0, 3)), constant_values=task.model.num_items),
        client=np.pad(cohort.histories.client, (0, 2), constant_values=99),
        count=np.pad(cohort.histories.count, (0, 2)),
    )
    cohort = Cohort(
        histories=histories,
        responded=np.pad(cohort.responded, (0, 2)),
        local_epochs=np.pad(cohort.local_epochs, (0, 2)),
        weight=np.pad(cohort.weight, (0, 2), constant_values=1.0),
    )
    return jax.tree.map(lambda x: np.concatenate([x, x[:1], x[:1]]), private), cohort


@pytest.mark.parametrize("case", mostly_slow([(c,) for c in CASES], 4))
def test_padding_order_and_buckets_change_nothing(case):
    """The clients padded, shuffled and split in two buckets, against one plain bucket."""
    task, server, private, cohort, features = make_case(*case)
    groups = np.array([2]), np.array([0, 3, 1])
    take = lambda tree, ids: jax.tree.map(lambda x: np.asarray(x)[ids], tree)
    split = [padded(task, take(private, ids), take(cohort, ids)) for ids in groups]
    for plan in plans_of(task):
        plain = one_round(task, plan, server, (private,), (cohort,), features)
        rows, cohorts = zip(*split, strict=True)
        other = one_round(task, plan, server, rows, cohorts, features)
        assert_close(other[0].shared, plain[0].shared, 1e-9)
        np.testing.assert_allclose(other[2].loss, plain[2].loss, rtol=1e-9)
        for ids, new in zip(groups, other[1], strict=True):
            assert_close(take(new, np.arange(len(ids))), take(plain[1][0], ids), 1e-9)


@pytest.mark.parametrize("case", CASES[:3], ids="-".join)
@pytest.mark.slow
def test_chunks_change_nothing(case):
    task, server, private, cohort, features = make_case(*case)
    views = task.model.fusion.views(server.shared["fusion"], server.shared["items"], features)
    rates = task.config.federation.rates
    alpha = jnp.asarray(cohort.weight) * cohort.responded
    for plan in plans_of(task):
        broadcast = make_broadcast(task, plan, views, server, rates)
        train = make_train(task, plan)
        inputs = broadcast, LocalInput(cohort, alpha, private), server.key
        # Four clients in chunks of at most three: two even chunks; in chunks of one: four.
        whole = jax.jit(train)(*inputs)
        assert_close(jax.jit(map_chunks(train, 3))(*inputs), whole, 1e-9)
    assert_close(jax.jit(map_chunks(train, 1))(*inputs), whole, 1e-9)


def test_expected_negatives_are_the_mean_of_sampled_ones():
    """Loss and upload of one epoch, averaged over many draws, near the exact expectation."""
    draws = 4000
    rng = np.random.default_rng(5)
    sampled = random_task(
        rng,
        backbone="fcf",
        fusion="bilevel",
        upload="gradient",
        negatives="sampled",
        local_epochs=1,
        clip_norm=0.0,
        # The logarithm in the softmax has no such mean.
        loss="bce",
    )
    federation = dataclasses.replace(sampled.config.federation, negatives="expected")
    expected = sampled._replace(config=dataclasses.replace(sampled.config, federation=federation))
    server, private, cohort, features = random_state(rng, sampled, 4)
    views = sampled.model.fusion.views(server.shared["fusion"], server.shared["items"], features)
    broadcast = Broadcast(views, server.shared["head"], server.round, federation.rates)
    alpha = jnp.asarray(cohort.weight) * cohort.responded
    train = jax.jit(make_train(expected, "dense"))
    clients = LocalInput(cohort, alpha, private)
    result = train(broadcast, clients, server.key)
    one = lambda key: make_train(sampled, "dense")(broadcast, clients, key)
    each = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=500))(
        jax.random.split(jax.random.key(1), draws)
    )
    for drawn, exact in ((each.loss, result.loss), (each.upload.views, result.upload.views)):
        error = jnp.std(drawn, axis=0) / np.sqrt(draws)
        assert float(jnp.max(jnp.abs(jnp.mean(drawn, axis=0) - exact) - 5 * error)) < 1e-9
        assert float(jnp.max(error)) > 0
