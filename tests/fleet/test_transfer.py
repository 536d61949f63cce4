"""Bytes of transfers equal those of the serialised arrays, and these can be read again."""

import jax
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.local import Broadcast, LocalInput
from fedvlr_jax.federated.plans.slots import make_slots
from fedvlr_jax.federated.plans.steps import client_keys
from fedvlr_jax.federated.round import make_train
from fedvlr_jax.fleet import SCHEMES, round_bytes
from fedvlr_jax.fleet.transfer import Shape
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.workload import (
    download_bytes,
    touched_rows,
    upload_shape,
    work_of,
)
from fedvlr_jax.training import train
from fedvlr_jax.training.costs import client_bytes
from fedvlr_jax.training.summary import summarise_run
from fedvlr_jax.uplink.compress import quantised
from tests.federated.cases import random_state, random_task
from tests.fleet.serialised import parsed, serialised


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("items, touched", [(13, 5), (16, 16), (8, 0)])
def test_counted_bytes_are_those_that_are_sent(scheme, items, touched):
    rng = np.random.default_rng(items)
    views = np.zeros((items, 6), np.float32)
    views[rng.choice(items, touched, replace=False)] = rng.normal(size=(touched, 6))
    head = rng.normal(size=3).astype(np.float32)
    shape = Shape(items, 6, 3)
    data = serialised(views, head, scheme)
    assert len(data) == round_bytes(shape, touched, scheme)
    for found, given in zip(parsed(data, shape, scheme), (views, head), strict=True):
        np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [2, 5, 16])
def test_quantised_rows_are_sent_in_their_bits(scheme, bits):
    rng = np.random.default_rng(bits)
    views = np.zeros((13, 1, 6), np.float32)
    views[[2, 5, 12]] = rng.normal(size=(3, 1, 6))
    views = np.asarray(quantised(jax.random.key(0), views, bits))[:, 0]
    head = rng.normal(size=3).astype(np.float32)
    shape, touched = Shape(13, 6, 3, bits), int((views != 0).any(axis=1).sum())
    data = serialised(views, head, scheme, bits)
    assert len(data) == round_bytes(shape, touched, scheme)
    found = parsed(data, shape, scheme)
    np.testing.assert_allclose(found[0], views, rtol=1e-6)
    np.testing.assert_array_equal(found[1], head)


@pytest.mark.parametrize("backbone, negatives", [("fcf", "expected"), ("fedavg", "sampled")])
def test_the_shape_is_that_of_a_real_upload(backbone, negatives):
    """One client alone: the table moves on as many rows as it is said to touch, at most."""
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 30, "items": 60})
    config = Config.from_flat(
        backbone=backbone,
        fusion="none",
        width=4,
        negatives=negatives,
        num_negatives=1,
        local_epochs=1,
        cohort=1,
        server_optimizer="sgd",
        server_decay=0.0,
        rounds=1,
        eval_every=1,
    )
    simulation = make_simulation(config, dataset)
    (client,) = np.concatenate(
        [
            b[r]
            for b, r in zip(simulation.buckets, simulation.sampling.sampled_rows(0, 0), strict=True)
        ]
    )
    state = simulation.init(0)
    before = np.array(state.server.shared["items"])
    state, _ = simulation.run_rounds(state, 1)
    moved = (np.asarray(state.server.shared["items"]) != before).any(axis=1).sum()
    shape, touched = upload_shape(simulation.setup), touched_rows(simulation.setup)[client]
    assert (shape.items, shape.row) == (60, 4)
    assert shape.head == sum(np.size(x) for x in state.server.shared["head"].values())
    assert (moved == touched == 60) if negatives == "expected" else (0 < moved <= touched < 60)


def small(**choices):
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 30, "items": 60})
    plain = dict(fusion="none", width=4, negatives="sampled", num_negatives=2, local_epochs=2)
    plain |= dict(cohort=5, rounds=3, eval_every=3, baselines=False, plan="gathered")
    return make_simulation(Config.from_flat(**{**plain, **choices}), dataset)


@pytest.mark.parametrize(
    ("flags", "every"),
    [
        ({"noise": "client"}, True),
        ({"noise": "central"}, False),
        ({"privacy": "local"}, True),
        ({"privacy": "central"}, False),
    ],
)
def test_noise_of_clients_is_on_every_row_and_that_of_the_server_is_not_sent(flags, every):
    simulation = small(clip_norm=0.1, noise_multiplier=1.0, **flags)
    assert (touched_rows(simulation.setup) == 60).all() == every


def test_a_client_downloads_the_rows_that_it_asks_for():
    simulation = small(download_rows="touched", backbone="fedavg")
    setup, counts = simulation.setup, simulation.dataset.train.counts
    down, request = download_bytes(setup)
    head = 4 * (4 + 1)
    for client, count in enumerate(counts):
        # Its history, and two negatives of each item in each of two epochs.
        asked = count * (1 + 2 * 2)
        if asked < 60:
            numbers = np.zeros(asked, np.uint32)
            rows = np.zeros((60, 4), np.float32)[numbers]
            assert request[client] == len(numbers.tobytes())
            assert down[client] == len(rows.tobytes()) + head
        else:
            assert (request[client], down[client]) == (0, 4 * 4 * 60 + head)
    assert 0 < (request > 0).sum() < 30
    whole = small(backbone="fedavg")
    assert (download_bytes(whole.setup)[0] == 4 * 4 * 60 + head).all()
    assert not download_bytes(whole.setup)[1].any()
    sizes, all_rows = client_bytes(simulation), client_bytes(whole)
    assert sizes["down"] == down.mean() < all_rows["down"]
    assert sizes["up"]["dense"] == pytest.approx(all_rows["up"]["dense"] + request.mean())


def test_a_partial_download_is_in_the_clock_and_the_costs():
    simulation = small(download_rows="touched", participation="uniform")
    run, timing = train(simulation)
    costs = summarise_run(simulation, run, timing)[0]["costs"]
    (down, request), up = download_bytes(simulation.setup), work_of(simulation.setup).bytes_up
    rounds = [simulation.participation.round(0, number) for number in range(3)]
    assert costs["bytes_down"] == sum(down[r.sampled].sum() for r in rounds)
    late = sum(request[r.sampled[~r.responded]].sum() for r in rounds)
    assert costs["bytes_up"] == late + sum(up[r.sampled[r.responded]].sum() for r in rounds)


@pytest.mark.parametrize("choices", [dict(history_weight=0.5), dict(upload="delta")])
def test_training_reads_no_other_row(choices):
    """One client trains alike where all rows that it does not ask for are NaN."""
    rng = np.random.default_rng(2)
    fixed = dict(backbone="fcf", fusion="bilevel", negatives="sampled", num_negatives=1)
    task = random_task(rng, **fixed, local_epochs=1, clip_norm=0.0, recency=0.0, **choices)
    server, private, cohort, features = random_state(rng, task, 1)
    views = task.model.fusion.views(server.shared["fusion"], server.shared["items"], features)
    one = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
    keys = client_keys(server.key, cohort.histories.client, 1)
    asked = np.asarray(make_slots(task, one(cohort.histories), keys[0]).item)
    others = np.setdiff1d(np.arange(task.model.num_items), asked)
    assert len(others)
    train_on = jax.jit(make_train(task, "gathered"))
    rates, alpha = task.config.federation.rates, np.ones(1)
    found = [
        train_on(
            Broadcast(rows, server.shared["head"], server.round, rates),
            LocalInput(cohort, alpha, private),
            server.key,
        )
        for rows in (views, views.at[others].set(np.nan))
    ]
    for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "choices, piece",
    [
        (dict(negatives="expected"), "--download_rows=touched: with --negatives=expected"),
        (dict(aggregation="secure"), "--download_rows=touched: a client asks for the rows"),
    ],
)
def test_a_partial_download_that_makes_no_sense_is_refused(choices, piece):
    with pytest.raises(InputError) as caught:
        small(download_rows="touched", **choices)
    assert piece in caught.value.line
