"""Groups of clients: the clustering and the term in NumPy, the round, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedvlr_jax import trees
from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.config import Config, GroupsConfig
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.clustering import renumbered, spectral_embedding, spectral_groups
from fedvlr_jax.federated.groups import (
    NETWORK_LR,
    divergence,
    divergence_slope,
    fit_network,
    mean_tables,
    preferences,
    regrouped,
    scoring_heads,
    teacher_of,
)
from fedvlr_jax.federated.local import LocalInput
from fedvlr_jax.federated.participation import local_epochs_of
from fedvlr_jax.federated.plans import PLANS
from fedvlr_jax.federated.round import Received, Reports, make_broadcast, make_round
from fedvlr_jax.fusion.group_network import GroupNetwork
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training.ensemble import Programs, train_members
from fedvlr_jax.uplink import SlotUploads
from tests.federated.cases import assert_close, plans_of, random_state, random_task

TUNED = dict(backbone="fedavg", fusion="none", fedavg_rows="tuned", init="random")
GROUPED = dict(TUNED, groups=3, group_epochs=2)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})


def config_of(**choices):
    small = dict(width=8, local_epochs=2, eval_every=2, devices=1)
    return Config.from_flat(**{**small, **GROUPED, **choices})


def run(simulation, rounds, seed=0):
    state, _ = simulation.run_rounds(simulation.init(seed), rounds)
    return state


def equal(one, other, tolerance=0.0):
    numbers = lambda tree: [
        jax.random.key_data(leaf) if trees.is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)
    ]
    for a, b in zip(numbers(one), numbers(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# The clustering.


def separated(rng, sizes, width=4):
    """(points of groups far from each other [K, width], the group of each [K])."""
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centres = 10 * np.eye(len(sizes), width)
    return centres[truth] + rng.normal(0, 0.3, (len(truth), width)), truth


def embedding_in_numpy(points, size):
    points = (points - points.mean(0)) / points.std(0)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    off = ~np.eye(len(points), dtype=bool)
    affinity = np.exp(-(distance**2) / (2 * np.median(distance[off]) ** 2)) * off
    degree = affinity.sum(1)
    values, vectors = np.linalg.eigh(affinity / np.sqrt(np.outer(degree, degree)))
    return vectors[:, np.argsort(-values)[:size]] / np.sqrt(degree)[:, None]


def same_partition(group, truth):
    pairs = set(zip(group.tolist(), truth.tolist(), strict=True))
    return len(pairs) == len(set(group.tolist())) == len(set(truth.tolist()))


@pytest.mark.parametrize("seed", range(4))
def test_separated_clients_are_grouped(seed):
    rng = np.random.default_rng(seed)
    points, truth = separated(rng, [5, 9, 3])
    present = np.ones(len(truth), bool)
    present[[1, 7]] = False
    # Rows of clients that are not present are not read.
    shown = np.where(present[:, None], points, np.nan).astype(np.float32)
    group = np.asarray(spectral_groups(shown, present, 3, jax.random.key(seed)))
    assert same_partition(group[present], truth[present])


@pytest.mark.usefixtures("double_precision")
def test_the_embedding_in_numpy():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(12, 4)) * [1, 20, 0.1, 3]
    present = np.ones(12, bool)
    present[4] = False
    expected = embedding_in_numpy(points[present], 3)
    standard = np.zeros_like(points)
    standard[present] = (points[present] - points[present].mean(0)) / points[present].std(0)
    found = np.asarray(spectral_embedding(jnp.asarray(standard), jnp.asarray(present), 3))[present]
    # The sign of an eigenvector is free.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-6, atol=1e-9)


def test_groups_depend_on_the_shape_not_on_the_unit_of_a_column():
    rng = np.random.default_rng(1)
    points, truth = separated(rng, [6, 6, 6])
    points = np.hstack([points, np.full((18, 1), 7.0)]) * [1, 1000, 1e-3, 1, 1]
    group = spectral_groups(points.astype(np.float32), np.ones(18, bool), 3, jax.random.key(0))
    assert same_partition(np.asarray(group), truth)


def test_groups_keep_their_numbers_by_overlap():
    as_ints = lambda *values: jnp.asarray(values, jnp.int32)
    before = as_ints(0, 0, 0, 1, 1, 2, -1)
    group = as_ints(2, 2, 0, 0, 0, 1, 1)
    everyone = jnp.ones(7, bool)
    # Overlaps of new and old: 2-0 two, 0-1 two, 0-0 one, 1-2 one.
    assert renumbered(group, before, everyone, 3).tolist() == [0, 0, 1, 1, 1, 2, 2]
    # Without clients 3 and 4, group 0 has only client 2, and 0 is taken.
    present = jnp.asarray([True, True, True, False, False, True, True])
    assert renumbered(group, before, present, 3)[jnp.array([0, 2, 5])].tolist() == [0, 1, 2]


# The term of the loss.


@pytest.mark.usefixtures("double_precision")
def test_the_term_and_its_gradient_in_numpy():
    rng = np.random.default_rng(0)
    scores, label = rng.normal(0, 3, (4, 6)), rng.uniform(0.01, 0.99, (4, 6))
    counts = rng.uniform(0, 2, (4, 6))
    p = 1 / (1 + np.exp(-scores))
    kl = label * np.log(label / p) + (1 - label) * np.log((1 - label) / (1 - p))
    np.testing.assert_allclose(divergence(scores, label, counts), (counts * kl).sum(1), rtol=1e-10)
    slope = divergence_slope(scores, label, counts)
    step = 1e-6
    single = lambda x: x[..., None]
    moved = lambda by: divergence(single(scores) + by, single(label), single(counts))
    np.testing.assert_allclose(slope, (moved(step) - moved(-step)) / (2 * step), rtol=1e-6)
    by_scores = jax.grad(lambda s: jnp.sum(divergence(s, label, counts)))(scores)
    np.testing.assert_allclose(slope, by_scores, rtol=1e-10)


def test_certain_labels_have_finite_terms():
    label = jnp.asarray([[0.0, 1.0]])
    value = divergence(jnp.asarray([[-50.0, 60.0]]), label, jnp.ones((1, 2)))
    assert np.isfinite(value).all() and abs(value[0]) < 1e-6


def with_groups(server, task, group, round_number=2):
    """A server whose groups have random preferences."""
    rng = np.random.default_rng(9)
    items, features = task.model.num_items, {"text": jnp.zeros((1, 5)), "image": jnp.zeros((1, 3))}
    count = task.config.groups.groups
    network = GroupNetwork(count, task.model.width).init(jax.random.key(0), features)["params"]
    memory = {
        "group": jnp.asarray(group, jnp.int32),
        "label": jnp.asarray(rng.uniform(0.1, 0.9, (count, items))),
        "network": network,
        "optimizer": optax.adam(NETWORK_LR).init(network),
    }
    return server._replace(groups=memory, round=np.int32(round_number))


def grouped_task(rng, **choices):
    fixed = dict(TUNED, views="auto", clip_norm=0.0, loss="bce", history_weight=0.0, recency=0.0)
    return random_task(rng, **{**fixed, "groups": 2, "group_weight": 0.7, **choices})


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    "choices",
    [
        dict(negatives="expected", upload="gradient", fusion="mlp", fedavg_rows="shared"),
        dict(negatives="sampled", upload="delta"),
    ],
)
def test_plans_agree(choices):
    rng = np.random.default_rng(4)
    task = grouped_task(rng, **choices)
    assert plans_of(task) == ["dense", "gathered"]
    server, private, cohort, features = random_state(rng, task, 5)
    server = with_groups(server, task, [0, 1, -1, 1, 0])
    rates = task.config.federation.rates
    after = [
        jax.jit(make_round(task, plan))(server, (private,), (cohort,), features, rates)
        for plan in plans_of(task)
    ]
    assert_close(after[0][0].shared, after[1][0].shared, 1e-9)
    assert_close(after[0][1], after[1][1], 1e-9)
    assert after[0][0].groups["group"].tolist() == after[1][0].groups["group"].tolist()
    assert_close(after[0][0].groups["label"], after[1][0].groups["label"], 1e-4)


@pytest.mark.usefixtures("double_precision")
def test_the_loss_of_a_round_in_numpy():
    rng = np.random.default_rng(6)
    task = grouped_task(rng, negatives="expected", num_negatives=2, group_rounds=10)
    server, private, cohort, features = random_state(rng, task, 3)
    cohort = dataclasses.replace(cohort, responded=np.ones(3, bool))
    group = [1, -1, 0]
    server = with_groups(server, task, group)
    rates = task.config.federation.rates
    play = jax.jit(make_round(task, "dense"))
    _, _, metrics = play(server, (private,), (cohort,), features, rates)
    head, losses = server.shared["head"], []
    scores = server.shared["items"] @ head["vector"] + head["bias"]
    p, member = 1 / (1 + np.exp(-scores)), np.asarray(task.pool.member)
    for user in range(3):
        size = int(cohort.histories.count[user])
        positive = np.isin(np.arange(len(p)), cohort.histories.item[user][:size])
        free = member & ~positive
        negative = 2 * size * free / free.sum()
        rows = positive * -np.log(p) + negative * -np.log(1 - p)
        if group[user] >= 0:
            t = np.asarray(server.groups["label"])[group[user]]
            kl = t * np.log(t / p) + (1 - t) * np.log((1 - t) / (1 - p))
            rows += 0.7 * np.cos(np.pi * 2 / 20) * (positive + negative) * kl
        losses.append(rows.sum() / (3 * size))
    assert float(metrics.loss) == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_weight_falls_to_zero_and_needs_a_group(dataset):
    simulation = make_simulation(config_of(group_weight=2.0, group_rounds=4), dataset)
    server = simulation.init(0).server
    group = jnp.full(40, -1, jnp.int32).at[3].set(2)
    server = server._replace(groups={**server.groups, "group": group})
    at = lambda number: teacher_of(
        preferences(simulation.config, server._replace(round=jnp.int32(number))),
        jnp.asarray([3, 5, 40]),
    )
    for number, expected in ((0, 2.0), (2, 2 * np.cos(np.pi / 4)), (4, 0.0), (9, 0.0)):
        np.testing.assert_allclose(at(number).weight, [expected, 0, 0], rtol=1e-6)


# The server's part.


def test_the_network_approaches_its_tables():
    rng = np.random.default_rng(2)
    features = {"text": rng.normal(size=(30, 6)).astype(np.float32)}
    base, shift = features["text"] @ rng.normal(size=(6, 4)), rng.normal(size=(2, 1, 4))
    # Small rows far from 0, as those of an ID table can be.
    rows = 0.01 * (base[None] + shift)
    table = jnp.asarray(0.5 + np.concatenate([rows, -rows[:1]]), jnp.float32)
    network = GroupNetwork(3, 4)
    params = network.init(jax.random.key(0), features)["params"]
    begun = params, optax.adam(NETWORK_LR).init(params)
    has_clients = jnp.asarray([True, True, False])

    def errors(epochs):
        *_, fused = fit_network(begun, epochs, features, table, has_clients)
        return jnp.mean(jnp.square(fused - table), axis=(1, 2)) / jnp.var(table)

    first, some, many = (errors(epochs)[:2].max() for epochs in (1, 20, 600))
    assert some < 0.9 * first and many < 0.1
    # The rows of a group without clients are not fitted.
    assert errors(600)[2] > 1


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("upload", ["gradient", "delta"])
def test_the_tables_and_heads_of_a_group(upload):
    """Three clients of known uploads; clients 0 and 2 are group 1."""
    rng = np.random.default_rng(8)
    task = grouped_task(rng, upload=upload, local_epochs=2, delta_lr=0.4, item_lr=0.3)
    items, width = task.model.num_items, task.model.width
    rows, vector = rng.normal(size=(3, items, 1, width)), rng.normal(size=(3, width))
    uploads = SlotUploads(
        item=np.tile(np.arange(items, dtype=np.int32), (3, 1)),
        rows_of_views=rows,
        head={"vector": vector, "bias": np.arange(3.0)},
        scale=1.0,
        num_items=items,
        whole=True,
    )
    server, *_, features = random_state(rng, task, 3)
    server = with_groups(server, task, [0, 1, 0])
    views = task.model.fusion.views(server.shared["fusion"], server.shared["items"], features)
    broadcast = make_broadcast(task, "dense", views, server, task.config.federation.rates)
    share = jnp.asarray([[0, 1.0, 0], [0.5, 0, 0.5]])
    step, head_step = (0.3, 0.4 / 2) if upload == "gradient" else (1.0, 1.0)
    expected = server.shared["items"] - step * np.stack([rows[1], (rows[0] + rows[2]) / 2])[:, :, 0]
    np.testing.assert_allclose(mean_tables(task, broadcast, uploads, share), expected, rtol=1e-6)
    head = server.shared["head"]
    expected = np.column_stack(
        [head["vector"] - head_step * vector, head["bias"] - head_step * np.arange(3.0)]
    )
    np.testing.assert_allclose(scoring_heads(task, broadcast, uploads), expected, rtol=1e-6)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("rows", ["shared", "tuned"])
def test_a_client_of_few_epochs_steps_along_their_mean_gradient(rows):
    """Its sum of gradients is shorter. With tuned rows its own table moved less."""
    choices = dict(fedavg_rows=rows, upload="gradient", local_epochs=4, group_epochs=3)
    made = {}
    for least in (0, 1):
        rng = np.random.default_rng(8)
        task = grouped_task(rng, **choices, min_local_epochs=least)
        server, *_, features = random_state(rng, task, 3)
        server = with_groups(server, task, [0, 1, 0])
        client = np.arange(3, dtype=np.int32)
        epochs = local_epochs_of(server.key, server.round, client, task.config.federation)
        assert set(np.asarray(epochs)) == ({2, 3} if least else {4})
        items, width = task.model.num_items, task.model.width
        own, factor = rng.normal(size=(3, items, 1, width)), np.asarray(epochs) / 4
        vector, bias = rng.normal(size=(3, width)), np.arange(3.0)
        uploads = SlotUploads(
            item=np.tile(np.arange(items, dtype=np.int32), (3, 1)),
            rows_of_views=own if rows == "tuned" else factor[:, None, None, None] * own,
            head={"vector": factor[:, None] * vector, "bias": factor * bias},
            scale=jnp.ones(3),
            num_items=items,
            whole=True,
        )
        views = task.model.fusion.views(server.shared["fusion"], server.shared["items"], features)
        broadcast = make_broadcast(task, "dense", views, server, task.config.federation.rates)
        heard = Reports(client, np.ones(3, bool), *[np.zeros(3)] * 3)
        received, after = (
            Received(uploads, np.ones(3), heard),
            server._replace(round=server.round + 1),
        )
        found = regrouped(task, server, after, broadcast, received, features, None)
        made[least] = found.groups
    assert_close(made[0], made[1], 1e-9)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("plan", ["dense", "gathered"])
def test_with_tuned_rows_the_server_knows_the_table_of_a_client(plan):
    rng = np.random.default_rng(5)
    task = grouped_task(rng, negatives="sampled", upload="gradient")
    server, private, cohort, features = random_state(rng, task, 3)
    cohort = dataclasses.replace(cohort, responded=np.ones(3, bool))
    server = with_groups(server, task, [0, 1, -1])
    views = task.model.fusion.views(server.shared["fusion"], server.shared["items"], features)
    broadcast = make_broadcast(task, plan, views, server, task.config.federation.rates)
    update = jax.jit(PLANS[plan].make_update(task))
    result = update(broadcast, LocalInput(cohort, jnp.ones(3), private), jax.random.key(1))
    own = np.asarray(views)[:, 0, :] + np.asarray(result.private["items"])
    found = mean_tables(task, broadcast, result.uploads, jnp.eye(3))
    np.testing.assert_allclose(found, own, rtol=1e-7, atol=1e-9)


# The round.


def test_round_0_is_that_of_a_run_without_groups(dataset):
    plain = dataclasses.replace(config_of(), groups=GroupsConfig())
    one, other = (run(make_simulation(config, dataset), 1) for config in (plain, config_of()))
    equal(one.server.shared, other.server.shared)
    equal(one.private, other.private)
    assert one.server.groups == ()
    group = np.asarray(other.server.groups["group"])
    assert set(group) == {0, 1, 2}
    label = np.asarray(other.server.groups["label"])
    assert ((label > 0) & (label < 1) & (label != 0.5)).all()


def test_the_second_round_distils(dataset):
    one = run(make_simulation(config_of(group_weight=0.0), dataset), 2)
    other = run(make_simulation(config_of(), dataset), 2)
    assert not np.allclose(one.server.shared["items"], other.server.shared["items"], atol=1e-4)


@pytest.mark.parametrize(
    "choices", [pytest.param({}, marks=pytest.mark.slow), dict(store="host", chunk=7)]
)
def test_a_run_in_two_parts(choices, dataset, tmp_path):
    sampled = dict(cohort=25, client_dropout=0.2, **choices)
    whole = make_simulation(config_of(**sampled), dataset)
    expected = run(whole, 4)
    other = make_simulation(config_of(**sampled), dataset)
    begun = run(other, 2)
    packed, saved = other.pack(begun), Checkpoints(tmp_path)
    saved.save(2, packed, {})
    saved.wait()
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), packed)
    state, _ = other.run_rounds(other.unpack(saved.load(2, shapes)), 2)
    equal(expected.server, state.server)


@pytest.mark.slow
def test_a_store_changes_nothing(dataset):
    one = run(make_simulation(config_of(), dataset), 3)
    other = run(make_simulation(config_of(store="host", chunk=7), dataset), 3)
    # The tests compile without optimisation, where tiny products depend on their padding.
    equal(one.server.shared, other.server.shared, 1e-5)
    assert one.server.groups["group"].tolist() == other.server.groups["group"].tolist()


def test_an_absent_client_keeps_its_group(dataset):
    simulation = make_simulation(config_of(cohort=10), dataset)
    state = run(simulation, 1)
    group = np.asarray(state.server.groups["group"])
    assert (group >= 0).sum() == 10
    state, _ = simulation.run_rounds(state, 1)
    after = np.asarray(state.server.groups["group"])
    rows = simulation.sampling.sampled_rows(0, 1)
    pairs = zip(simulation.buckets, rows, strict=True)
    sampled = np.concatenate([users[own] for users, own in pairs])
    away = ~np.isin(np.arange(40), sampled)
    assert (after[away] == group[away]).all() and (after[sampled] >= 0).all()


@pytest.mark.slow
def test_seeds_side_by_side_are_their_own_runs(dataset):
    config = config_of(rounds=4, patience=5).resolved
    simulation = make_simulation(config, dataset)
    together, _ = train_members(Programs(simulation), [0, 1], [config.federation.rates] * 2)
    for seed, member in zip([0, 1], together, strict=True):
        equal(member.state.server, jax.device_get(run(simulation, 4, seed).server))


# Refusals.


@pytest.mark.parametrize(
    "choices, piece",
    [
        (dict(groups=1), "--groups=1: give at least 2"),
        (dict(groups=0, group_epochs=3), "--group_epochs=3: needs --groups"),
        (dict(group_rounds=0), "--group_rounds=0"),
        (dict(group_weight=-1.0), "--group_weight=-1.0"),
        (dict(backbone="pfedrec"), "--groups=3: the server groups clients by their scoring heads"),
        (dict(backbone="fedncf"), "--backbone=fedncf"),
        (dict(fusion="bilevel"), "--groups=3: --fusion=bilevel"),
        (dict(history_weight=0.5), "give --history_weight=0"),
        (dict(loss="softmax"), "give --loss=bce"),
        (dict(init="ease"), "give --loss=bce"),
        (dict(server_optimizer="none"), "--groups=3: --server_optimizer=none"),
        (dict(cohort=2), "--groups=3: more than --cohort=2"),
        (dict(aggregation="int32"), "--aggregation=int32 has only their sum"),
        (dict(aggregation="secure"), "--aggregation=secure has only their sum"),
        (dict(upload_bits=8), "--upload_bits=8 hides a part"),
        (dict(upload_rows=5, upload_format="sparse"), "--upload_rows=5 hides a part"),
        (dict(upload_rank=2), "--upload_rank=2 hides a part"),
        (dict(attack="sign_flip"), "--groups=3: --attack=sign_flip"),
        (dict(noise_multiplier=1.0, clip_norm=1.0), "without noise"),
        (dict(privacy="central", noise_multiplier=1.0, clip_norm=1.0), "without noise"),
        (dict(buffer=2, cohort=4), "--groups=3: with --buffer=2"),
        (dict(plan="catalogue"), "--plan=catalogue: gives sums of uploads alone"),
        (dict(groups=41), "--groups=41: the data set has 40 users"),
    ],
)
def test_what_groups_do_not_support_is_refused(choices, piece, dataset):
    with pytest.raises(InputError) as caught:
        make_simulation(config_of(**choices), dataset)
    assert piece in caught.value.line


def test_a_data_set_without_features_is_refused(dataset):
    bare = dataclasses.replace(dataset, features={})
    with pytest.raises(InputError, match="groups=3: the server fuses the features"):
        make_simulation(config_of(), bare)


def test_with_tuned_rows_two_clients_rank_differently(dataset):
    plain = dict(groups=0, group_epochs=20, item_lr=30.0)
    tuned, shared = (
        make_simulation(config_of(**plain, fedavg_rows=rows), dataset)
        for rows in ("tuned", "shared")
    )
    after = run(tuned, 3)
    free = ~np.isin(np.arange(60), np.concatenate([dataset.train.of(0), dataset.train.of(1)]))
    orders = []
    for simulation, state in ((tuned, after), (shared, run(shared, 3))):
        items, scores = simulation.recommend(state, 60)
        own = [items[user][np.isfinite(scores[user])] for user in (0, 1)]
        orders.append([order[free[order]].tolist() for order in own])
    both = set(orders[0][0]) & set(orders[0][1])
    kept = [[[item for item in order if item in both] for order in pair] for pair in orders]
    assert kept[0][0] != kept[0][1] and kept[1][0] == kept[1][1]
