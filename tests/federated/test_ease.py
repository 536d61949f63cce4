"""The start by a low-rank EASE: against its literal formulas, and what validation chooses."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from fedvlr_jax.commands.one_run.introduction import introduce
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines import rank, scores_of
from fedvlr_jax.evaluation.baselines.linear import ease
from fedvlr_jax.evaluation.metrics import user_metrics
from fedvlr_jax.federated import ease_settings as module
from fedvlr_jax.federated.ease import Autoencoder, autoencoder
from fedvlr_jax.federated.ease_settings import (
    Wanted,
    ease_initialization,
    tried_models,
    tried_recencies,
)
from fedvlr_jax.federated.exchanges import bytes_before_training, exchanges_of
from fedvlr_jax.federated.model import make_model
from fedvlr_jax.simulation import make_simulation
from tests.federated.random_data import random_dataset

USERS, ITEMS = 40, 30
OPTIONS = dict(ridge=2.0, exchanges=200)
ALONE = dict(**OPTIONS, ials=False, transitions=0.0)


@pytest.fixture(scope="module")
def dataset():
    """Random histories with times; the last two items are in nobody's train part."""
    data = random_dataset(3, USERS, ITEMS, unseen=2, share=0.3, parts=8, features=("a", "b"))
    data.features["b"][-1] = 0.0
    return data


def unit_rows(rows):
    rows = rows.astype(float)
    rows = rows - rows.mean(axis=0)
    return np.stack([row / np.linalg.norm(row) for row in rows])


def literal_matrix(dataset, content, normalization=0.0):
    """M of the docstring, entry by entry."""
    train, rows = dataset.train, [unit_rows(x) for x in dataset.features.values()]
    matrix = np.zeros((ITEMS, ITEMS))
    for u in range(USERS):
        for i in train.of(u):
            for j in train.of(u):
                matrix[i, j] += len(train.of(u)) ** (-2 * normalization)
    mean_count = np.trace(matrix) / ITEMS
    for i in range(ITEMS):
        for j in range(ITEMS):
            matrix[i, j] += content * mean_count * sum(x[i] @ x[j] for x in rows)
    return matrix


def literal_scores(dataset, content, width, recency=0.0, normalization=0.0):
    """EASE by inversion of M, its eigenvalues beyond the largest `width` set to zero.

    Of items outside the history only: elsewhere the diagonal of B is zero.
    """
    matrix = literal_matrix(dataset, content, normalization)
    mean = np.trace(matrix) / ITEMS
    own = OPTIONS["ridge"] * mean * (np.diag(matrix) / mean) ** (2 * normalization)
    own = np.maximum(own, OPTIONS["ridge"] * mean * 1e-3 ** (2 * normalization))
    # M + diag(own) is root (root^-1 M root^-1 + I) root; the truncation is of the inner matrix.
    root = np.sqrt(own)
    eigenvalues, vectors = np.linalg.eigh(matrix / root[:, None] / root)
    eigenvalues[: ITEMS - width] = 0.0
    low = root[:, None] * (vectors @ np.diag(eigenvalues) @ vectors.T) * root
    inverse = np.linalg.inv(low + np.diag(own))
    popular = (1 + dataset.train.item_counts) ** normalization
    scores = np.full((USERS, ITEMS), np.nan)
    for u in range(USERS):
        own = dataset.train.of(u)
        times = dataset.train.time[dataset.train.users == u]
        age = np.array([sum(times > time) for time in times])
        weight = (1 + age) ** -recency
        weight = weight / weight.mean()
        for j in set(range(ITEMS)) - set(own.tolist()):
            scores[u, j] = sum(
                w * -inverse[i, j] / inverse[j, j] / popular[j]
                for w, i in zip(weight, own, strict=True)
            )
    return scores


@pytest.mark.parametrize(
    ("content", "normalization", "recency", "width"),
    [
        (0.0, 0.0, 0.0, ITEMS),
        (0.5, 0.0, 0.7, ITEMS),
        (2.0, 0.0, 0.5, 6),
        (0.5, 0.25, 0.0, ITEMS),
        (2.0, 0.4, 0.5, 6),
    ],
)
def test_scores_are_those_of_the_formulas(dataset, content, normalization, recency, width):
    expected = literal_scores(dataset, content, width, recency, normalization)
    wanted = Wanted(content=content, normalization=normalization, recency=recency, **ALONE)
    found = ease_initialization(dataset, width, wanted)
    assert found.items.shape == (ITEMS, width) and found.vectors.shape == (USERS, width)
    scores = np.where(np.isnan(expected), np.nan, found.vectors @ found.items.T)
    # The weights of a history are float32.
    np.testing.assert_allclose(scores, expected, atol=1e-6 if recency else 1e-9)


def test_at_full_width_without_content_it_is_the_baseline(dataset):
    plain = dataclasses.replace(dataset, features={})
    found = ease_initialization(plain, ITEMS, Wanted(normalization=0.0, recency=0.0, **ALONE))
    own = dataset.train.matrix.toarray() > 0
    fitted = ease(plain)(l2=OPTIONS["ridge"] * len(dataset.train) / ITEMS)
    baseline = scores_of(fitted, plain)(slice(None))
    np.testing.assert_allclose((found.vectors @ found.items.T)[~own], baseline[~own], atol=1e-9)


def test_content_scores_items_that_nobody_has(dataset):
    with_content, without = (
        ease_initialization(dataset, 8, Wanted(content=c, normalization=0.0, recency=0.0, **ALONE))
        for c in (1.0, 0.0)
    )
    assert not without.items[-2:].any()
    assert np.ptp(with_content.vectors @ with_content.items[-2], axis=0) > 1e-3


def test_an_item_that_nothing_describes_ties_at_zero(dataset):
    rows = [np.concatenate([unit_rows(dataset.features["a"])[:-1], np.zeros((1, 4))])]
    found = autoencoder(dataset.train, rows, 8, content=1.0, normalization=0.25, **OPTIONS)
    assert not found.items[-1].any() and found.items[-2].any()


def test_beyond_the_rank_there_is_nothing(dataset):
    few = dataclasses.replace(
        dataset,
        train=Interactions.from_pairs(user=[0, 0, 1], item=[0, 1, 1], num_users=2, num_items=ITEMS),
    )
    found = autoencoder(few.train, [], 7, content=0.0, normalization=0.0, **OPTIONS)
    assert found.items[:, :2].any(axis=0).all() and not found.items[:, 2:].any()


def literal_ndcg(scores, dataset):
    """Of every client with a warm validation item, ties at their mean."""
    train, valid, gains = dataset.train, dataset.valid, []
    for u in range(USERS):
        targets = [j for j in valid.of(u) if train.item_counts[j] > 0]
        others = [j for j in range(ITEMS) if j not in train.of(u)]
        gain = sum(1 / np.log2(2 + sum(scores[u, others] > scores[u, j])) for j in targets)
        if targets:
            gains.append(gain / sum(1 / np.log2(2 + place) for place in range(len(targets))))
    return np.array(gains)


def test_validation_items_that_nobody_has_are_not_judged_on(dataset):
    cold = Interactions.from_pairs(
        user=[0, 0, 1], item=[5, ITEMS - 1, ITEMS - 2], num_users=USERS, num_items=ITEMS
    )
    asked = module._ranking(dataclasses.replace(dataset, valid=cold))
    assert asked.item.tolist() == [5] and asked.users.tolist() == [0]


@pytest.mark.parametrize("sure", [0.0, 1.0, 1e6])
def test_validation_chooses_what_is_ahead_of_the_plainest(dataset, sure, monkeypatch):
    monkeypatch.setattr(module, "MODEL_SURE", sure)
    monkeypatch.setattr(module, "RECENCY_SURE", sure / 2)
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 3 * ITEMS)

    def best(tried, scores_of, sure=sure):
        gains = [literal_ndcg(scores_of(value), dataset) for value in tried]
        most = max(range(len(tried)), key=lambda place: gains[place].mean())
        ahead = gains[most] - gains[0]
        return tried[most if ahead.mean() > sure * ahead.std(ddof=1) / len(ahead) ** 0.5 else 0]

    scores = lambda r: lambda pair: literal_scores(dataset, pair[1], 6, r, pair[0])
    plain, other = ([(v, c) for c in module.CONTENTS] for v in module.NORMALIZATIONS)
    pair = best(plain, scores(0.0))
    recency = best(module.RECENCIES, lambda r: scores(r)(pair), sure / 2)
    if recency:
        pair = best(plain, scores(recency))
    v, content = best([pair, *other], scores(recency))
    found = ease_initialization(dataset, 6, Wanted(**ALONE))
    assert (found.normalization, found.content, found.recency) == (v, content, recency)
    assert sure < 1e6 or (v, content, recency) == (0.0, 0.0, 0.0)


def test_the_normalization_must_be_ahead_of_the_selected_content(dataset, monkeypatch):
    """It is 1.5 ahead of the plainest (standard error 0.5), 0.5 ahead of c = 1."""
    tried = {(0.0, 0.0): [0, 0, 0, 0], (0.0, 1.0): [1, 1, 1, 1], (0.25, 1.0): [1, 3, 1, 1]}

    def tagged(train, rows, width, *, content, normalization, ridge, exchanges):
        return Autoencoder(
            directions=np.full((ITEMS, 1), normalization),
            eigenvalues=np.ones(1),
            ridge=content,
            root=np.ones((ITEMS, 1)),
            popular=np.ones((ITEMS, 1)),
        )

    def gains(model, history, targets):
        pair = (model.directions[0, 0], model.ridge)
        return np.array(tried.get(pair, [-1, -1, -1, -1]), float)

    monkeypatch.setattr(module, "autoencoder", tagged)
    monkeypatch.setattr(module, "_gains", gains)
    wanted = Wanted(recency=0.0, **ALONE)
    found = ease_initialization(dataset, 1, wanted)
    assert (found.normalization, found.content) == (0.0, 1.0)
    tried[0.25, 1.0] = [2, 3, 2, 2]
    assert ease_initialization(dataset, 1, wanted).normalization == 0.25


def test_planted_content_and_recency_are_chosen():
    """Clients walk through a catalogue in which an item's content says what follows it."""
    rng = np.random.default_rng(0)
    begin = rng.integers(0, 200, 300)
    place = np.arange(9)
    item = (begin[:, None] + place) % 200
    angle = 2 * np.pi * np.arange(200) / 200
    part = lambda chosen: Interactions.from_pairs(
        user=np.repeat(np.arange(300), len(place[chosen])),
        item=item[:, chosen].ravel(),
        time=np.tile(place[chosen], 300),
        num_users=300,
        num_items=200,
    )
    walked = Dataset(
        name="walks",
        train=part(slice(0, 7)),
        valid=part(slice(7, 8)),
        test=part(slice(8, 9)),
        features={"text": np.stack([np.sin(angle), np.cos(angle)], 1).astype(np.float32)},
        user_ids=np.arange(300).astype(str),
        item_ids=np.arange(200).astype(str),
        split="predefined",
    )
    wanted = Wanted(ridge=10.0, exchanges=8, ials=False, transitions=0.0)
    found = ease_initialization(walked, 8, wanted)
    assert found.recency > 0
    noise = {"text": rng.standard_normal((200, 2)).astype(np.float32)}
    noisy = dataclasses.replace(walked, features=noise)
    assert ease_initialization(noisy, 8, wanted._replace(recency=0.0)).content == 0


def test_what_is_tried_without_a_reason_to_choose(dataset):
    nobody = Interactions.from_pairs(user=[], item=[], num_users=USERS, num_items=ITEMS)
    unjudged = dataclasses.replace(dataset, valid=nobody)
    assert tried_models(unjudged, None, None) == [(0.0, module.UNSEEN_CONTENT)]
    bare = dataclasses.replace(unjudged, features={})
    assert tried_models(bare, None, None) == [(0.0, 0.0)]
    assert tried_models(dataset, 0.3, None) == [(0.0, 0.3), (0.25, 0.3)]
    assert tried_models(dataset, None, 0.5) == [(0.5, c) for c in module.CONTENTS]
    assert len(tried_models(dataset, None, None)) == 8
    timeless = dataclasses.replace(dataset.train, time=np.zeros(len(dataset.train), np.int64))
    for data in (
        unjudged,
        dataclasses.replace(dataset, train=timeless),
        dataclasses.replace(dataset, train=dataset.train.weighted_by_recency(1.0)),
    ):
        assert tried_recencies(data, None) == (0.0,)
    assert tried_recencies(dataset, None) == module.RECENCIES


@pytest.fixture(scope="module")
def synthetic():
    return load_dataset("synthetic", data_root="", synthetic={"users": 50, "items": 60})


@pytest.mark.parametrize("store", ["device", "host"])
def test_a_simulation_begins_with_its_scores(synthetic, store):
    choices = dict(width=5, init="ease", init_recency=0.5, init_normalization=0.3, init_ials=1)
    choices |= dict(init_transitions=0.5)
    simulation = make_simulation(
        Config.from_flat(**choices, init_content=1.0, store=store), synthetic
    )
    given = dict(content=1.0, normalization=0.3, recency=0.5, ials=True, transitions=0.5)
    found = ease_initialization(synthetic, 5, Wanted(ridge=10.0, exchanges=8, **given))
    scores = found.vectors @ found.items.T
    scores[synthetic.train.matrix.toarray() > 0] = -np.inf
    scores[synthetic.valid.matrix.toarray() > 0] = -np.inf
    assert simulation.model.fusion.names == ("table", "text", "image")
    items, _ = simulation.recommend(simulation.init(), 5)
    np.testing.assert_array_equal(items, np.argsort(-scores, axis=1)[:, :5])
    # The histories are weighted in training too.
    assert simulation.task.weighted
    np.testing.assert_array_equal(
        simulation.setup.train.weight, synthetic.train.weighted_by_recency(0.5).weight
    )
    assert simulation.dataset.train.weight is None


def test_what_it_exchanges_and_chose_is_said(synthetic):
    config = Config.from_flat(width=5, init="ease", init_exchanges=2, fusion="none")
    simulation = make_simulation(config, synthetic)
    (exchange,) = exchanges_of(config, simulation.model, synthetic, simulation.setup.initialization)
    initial = simulation.setup.initialization
    assert (
        f"content {initial.content:g}, normalization {initial.normalization:g}, "
        f"recency {initial.recency:g}, transitions {initial.transitions:g}, " in exchange.line
    )
    # 60 items: their counts, for each of 8 models 2 x 37 columns and 5 + 1 to compare it, 5 of the
    # table. iALS with 1, 2 and 2 columns: 3 sweeps, and 5 to compare each. Sent: 8 x 2 x 37 numbers
    # a row, and 3 x (1 + 1), 3 x (3 + 2) twice. Transitions: two matrices, and 15 + 25 numbers.
    assert "8 models x 2 exchanges, 3 of iALS x 3 sweeps" in exchange.line
    assert exchange.down == 60 * (1 + 8 * (2 * 37 + 6) + 5 + 3 * (1 + 2 + 2) + 3 * 5) + 50
    assert (exchange.up, exchange.once) == (8 * 2 * 37 + 6 + 15 + 15, 3 + 9 + 9 + 40)
    assert "receives 0.162 MB, and sends 0.244 kB plus 2.51 kB for each item" in exchange.line
    assert ("iALS in " in exchange.line, "no iALS" in exchange.line) == (
        initial.ials[0] > 0,
        initial.ials[0] == 0,
    )
    down, up = bytes_before_training(config, simulation.model, synthetic)
    assert down == 4 * exchange.down
    np.testing.assert_array_equal(up, 4 * (synthetic.train.counts * exchange.up + 61))


@pytest.mark.parametrize(("ials", "compared"), [(-1, (5 + 1) + 3 * 5), (0, 0), (1, 3 * 5)])
def test_what_is_sent_to_be_compared_with_the_blends(synthetic, ials, compared):
    """Beside the counts, 2 x 37 columns and 5 of the final table: what clients compare, and 3 x 5
    of iALS with 1, 2 and 2 columns."""
    given = dict(init_content=0.0, init_normalization=0.0, init_ials=ials, init_exchanges=2)
    given |= dict(init_transitions=0.0)
    config = Config.from_flat(width=5, init="ease", fusion="none", **given)
    model = make_model(config.resolved, synthetic.num_items, {"text": 2})
    (exchange,) = exchanges_of(config, model, synthetic)
    assert exchange.down == 60 * (1 + 2 * 37 + 5 + compared + 15 * (ials != 0))


@pytest.mark.parametrize("content", [0.0, 1.0])
def test_features_of_the_initialization_are_not_called_unused(synthetic, content):
    config = Config.from_flat(width=5, init="ease", init_content=content, fusion="none")
    lines: list[str] = []
    introduce(make_simulation(config, synthetic), SimpleNamespace(note=lines.append))
    assert any("this run ignores them" in line for line in lines) == (content == 0)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (dict(backbone="fedavg"), "init=ease: backbone=fedavg has no private vector"),
        (dict(views="id,text"), "init=ease: .*views=id,text hides the rows"),
        (dict(width=10**8), "init=ease: needs about .* 60 items and width=100000000"),
        (dict(memory_budget_gb=1e-6), r"init=ease: needs about .* of 1e-06 GB \(memory_"),
        (dict(init_score=1e300), "init=ease: not finite .* init_ridge=10"),
        (dict(recency=0.5, init_recency=0.5), "init_recency=0.5: .*recency=0.5"),
    ],
)
def test_where_it_has_no_place(choices, message, synthetic):
    config = Config.from_flat(**{"init": "ease", "views": "table,text", "width": 5, **choices})
    with pytest.raises(InputError, match=message):
        make_simulation(config, synthetic)


def test_ials_needs_a_column(synthetic):
    config = Config.from_flat(init="ease", views="table,text", width=3, init_ials=1)
    with pytest.raises(InputError, match="init_ials=1: has a quarter of width=3"):
        make_simulation(config, synthetic)
    with pytest.raises(InputError, match="init_ials=2: out of range"):
        Config.from_flat(init_ials=2)


def test_a_weight_of_what_the_data_lack_is_refused(synthetic):
    untimed = dataclasses.replace(synthetic.train, time=np.zeros_like(synthetic.train.time))
    plain = dataclasses.replace(synthetic, features={}, train=untimed)
    start = lambda **choices: make_simulation(
        Config.from_flat(init="ease", fusion="none", width=5, **choices), plain
    )
    with pytest.raises(InputError, match=r"init_content=1\.0: .* has no item features"):
        start(init_content=1.0)
    with pytest.raises(InputError, match=r"init_recency=0\.5: .* has no time stamps"):
        start(init_recency=0.5)
    with pytest.raises(InputError, match=r"init_transitions=0\.5: .* has no time stamps"):
        start(init_transitions=0.5)
    start(init_content=0.0, init_recency=0.0, init_transitions=0.0)


@pytest.mark.parametrize("flag", ["init_content", "init_normalization", "init_recency"])
def test_a_weight_below_zero_is_refused(flag):
    with pytest.raises(InputError, match=f"{flag}=-0.5: out of range"):
        Config.from_flat(**{flag: -0.5})


@pytest.mark.parametrize("flag", ["init_content", "init_transitions"])
def test_a_weight_that_leaves_nothing_else_is_refused(flag):
    with pytest.raises(InputError, match=rf"{flag}=1e\+300: out of range; .* at most 1000000"):
        Config.from_flat(**{flag: 1e300})


@pytest.mark.parametrize("name", ["KU", "Beauty"])
def test_one_setting_is_not_below_ease_on_real_data(name, data_root):
    real = load_dataset(name, data_root=data_root)
    found = ease_initialization(real, 128, Wanted(ridge=10.0, exchanges=8))
    (warm,) = np.nonzero(real.train.item_counts[real.test.item] > 0)

    def ndcg(scorer):
        ranks = rank(scorer, real, "test", "train")
        select = np.isin(np.arange(len(real.test)), warm)
        return np.nanmean(user_metrics(ranks.ahead, ranks.tied, real.test, select)["ndcg@50"])

    by_ease = max(ndcg(scores_of(ease(real)(l2=l2), real)) for l2 in (30, 100))
    assert ndcg(lambda users: found.vectors[users] @ found.items.T) > by_ease - 0.002


@pytest.mark.parametrize("fusion", ["bilevel", "shared"])
def test_views_of_content_do_not_slow_the_clients_down(fusion, dataset):
    """With content views and routers that stay, training is that without other views."""
    still = dict(router_lr=0.0, server_lr_items=0.0, server_lr_fusion=0.0, server_lr_head=0.0)
    found = {}
    for name in ("none", fusion):
        config = Config.from_flat(fusion=name, init="ease", width=8, router_hidden=3, **still)
        simulation = make_simulation(config, dataset)
        state, _ = simulation.run_rounds(simulation.init(), 3)
        found[name] = simulation.recommend(state, 5)[1]
        initial = simulation.recommend(simulation.init(), 5)[1]
        assert np.abs(found[name] - initial).max() > 0.1
    np.testing.assert_allclose(found[fusion], found["none"], rtol=1e-4)
