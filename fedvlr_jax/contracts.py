"""Checks of your own objects (backbone, fusion, aggregator, data set). Call them in your tests.

Each check raises `InputError` with one line: the requirement, the value found, the remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.aggregator import Aggregator
from fedvlr_jax.federated.server_optimizer import server_step
from fedvlr_jax.fusion import Fusion
from fedvlr_jax.models import Backbone
from fedvlr_jax.settings import key_of, under_own_settings
from fedvlr_jax.types import Cohort, Histories, PyTree, Rates
from fedvlr_jax.uplink import Needs, SlotUploads, Upload

_ROWS, _CLIENTS, _ITEMS, _VIEWS = 7, 6, 5, 2


def _need(holds: Any, what: str) -> None:
    if not holds:
        raise InputError(what)


def _finite(tree: PyTree) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def _close(one: PyTree, other: PyTree, tolerance: float = 1e-4) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in pairs)


@under_own_settings
def check_backbone(backbone: Backbone, *, width: int = 8) -> None:
    """Checks one backbone on random heads and item vectors.

    Guarantees if it returns: heads are pytrees of float32 arrays and depend only on the key;
    `score` gives one finite logit per row, which does not depend on the other rows; its gradient is
    finite; `linear` and `embedding`, if given, agree with `score`.

    Args:
      backbone: to check. width: d of the item vectors.

    Raises:
      InputError: names the first property that does not hold.
    """
    _need(
        backbone.weight in ("equal", "history"),
        f"Backbone.weight: found {backbone.weight!r}, expected 'equal' or 'history'",
    )
    _need(
        backbone.item_rows in (None, "tuned", "personal"),
        f"Backbone.item_rows: found {backbone.item_rows!r}, expected None, 'tuned' or 'personal'",
    )
    _need(
        backbone.penalty is None or backbone.item_rows == "personal",
        "Backbone.penalty: found item_rows other than 'personal'; a penalty needs personal rows",
    )
    key = key_of(0)
    shared = _check_init("Backbone.init_shared", lambda key: backbone.init_shared(key, width), key)
    private = _check_init(
        "Backbone.init_private", lambda key: backbone.init_private(key, width), key
    )
    vectors = jax.random.normal(jax.random.fold_in(key, 1), (_ROWS, width))
    scores = backbone.score(shared, private, vectors)
    _need(
        scores.shape == (_ROWS,),
        f"Backbone.score: found shape {scores.shape} for {_ROWS} item vectors, expected ({_ROWS},)",
    )
    single = jnp.concatenate([backbone.score(shared, private, row[None]) for row in vectors])
    _need(
        _close(single, scores),
        "Backbone.score: the score of an item depends on other rows; score each row independently",
    )
    gradient = jax.grad(lambda *inputs: jnp.sum(backbone.score(*inputs)), (0, 1, 2))
    _need(_finite(gradient(shared, private, vectors)), "Backbone.score: its gradient is not finite")
    if backbone.linear is not None:
        vector, bias = backbone.linear(shared, private)
        _need(
            _close(vectors @ vector + bias, scores),
            "Backbone.linear: vectors @ vector + bias differs from Backbone.score",
        )
    if backbone.embedding is not None:
        apply, score, linear = backbone.embedding
        parts = score(shared, private, apply(shared, vectors))
        if linear is not None:
            vector, bias = linear(shared, private)
            parts += vectors @ vector + bias
        _need(
            _close(parts, scores),
            "Backbone.embedding: the sum of its parts differs from Backbone.score",
        )


def _check_init(name: str, init: Callable[[jax.Array], PyTree], key: jax.Array) -> PyTree:
    found = init(key)
    for leaf in jax.tree.leaves(found):
        _need(
            getattr(leaf, "dtype", None) == jnp.float32,
            f"{name}: found a leaf of {getattr(leaf, 'dtype', type(leaf))}, expected arrays of "
            "float32",
        )
    _need(
        _close(init(key), found, 0.0),
        f"{name}: two calls with one key differ; use only this key to draw",
    )
    return found


@under_own_settings
def check_fusion(fusion: Fusion, dataset: Dataset, *, width: int) -> None:
    """Checks one fusion on a random ID table and the features of a data set.

    Guarantees if it returns: the views have different names; the parameters of the operators and of
    a router are pytrees of float32 arrays and depend only on the key; `views` gives finite views of
    every item, with a finite gradient; `route` gives each view a positive weight, with sum 1, and
    its gradient is finite; `after_first`, `set_logits` and `zero_content_views`, if given, do what
    `Fusion` says.

    Args:
      fusion: to check. dataset: with the features that the fusion was made for.
      width: d of the ID table and of every view, as `Config.model.width`.

    Raises:
      InputError: names the first property that does not hold.
    """
    names, key = fusion.names, key_of(0)
    _need(
        len(names) > 0 and len(set(names)) == len(names),
        f"Fusion.names: found {names}, expected a different name for each view",
    )
    gamma = _check_init("Fusion.init_shared", fusion.init_shared, key)
    router = _check_init("Fusion.init_router", fusion.init_router, key)
    items = jax.random.normal(jax.random.fold_in(key, 1), (dataset.num_items, width))
    features = {name: jnp.asarray(rows) for name, rows in dataset.features.items()}
    views = lambda gamma, items: fusion.views(gamma, items, features)
    found, pull_back = jax.vjp(views, gamma, items)
    expected = dataset.num_items, len(names), width
    _need(
        found.shape == expected and bool(jnp.isfinite(found).all()),
        f"Fusion.views: found {found.dtype} {found.shape}, expected finite numbers {expected}: "
        "items, views, width",
    )
    _need(
        _finite(pull_back(jnp.ones_like(found))),
        "Fusion.views: the gradient of the operators or of the ID table is not finite",
    )
    _check_router(fusion, router, found.mean(axis=0).reshape(-1))
    if fusion.zero_content_views is not None:
        left = views(fusion.zero_content_views(gamma), items)
        rows = [_close(left[:, g], fusion.table_weight * items) for g in range(len(names))]
        zero = [_close(left[:, g], jnp.zeros_like(items)) for g in range(len(names))]
        _need(
            any(rows) and all(a or b for a, b in zip(rows, zero, strict=True)),
            "Fusion.zero_content_views: expected views of 0, but for those that are the rows of "
            "the ID table times `table_weight`, of which there is at least one",
        )


def _check_router(fusion: Fusion, router: PyTree, pooled: jax.Array) -> None:
    count = len(fusion.names)
    # As after some training: the last layer of a router may begin at 0, which hides the others.
    draws = np.random.default_rng(0)
    trained = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.1 * draws.normal(size=leaf.shape), leaf.dtype), router
    )
    weights, pull_back = jax.vjp(fusion.route, trained, pooled)
    _need(
        weights.shape == (count,) and bool((weights > 0).all()) and _close(weights.sum(), 1.0),
        f"Fusion.route: found {np.asarray(weights).tolist()}, expected {count} positive weights "
        "with sum 1, one for each view",
    )
    _need(
        _finite(pull_back(jnp.arange(count, dtype=jnp.float32))),
        "Fusion.route: its gradient is not finite",
    )
    if fusion.after_first is not None:
        first = trained["first"]
        _need(
            _close(fusion.after_first(trained, pooled @ first["kernel"] + first["bias"]), weights),
            "Fusion.after_first: differs from Fusion.route after the layer router['first']",
        )
    if fusion.set_logits is not None:
        logits = jnp.linspace(-1.0, 1.0, count)
        _need(
            _close(fusion.route(fusion.set_logits(router, logits), pooled), jax.nn.softmax(logits)),
            "Fusion.set_logits: the weights of the new router are not the softmax of the logits",
        )


@under_own_settings
def check_aggregator(aggregator: Aggregator, rates: Rates | None = None) -> None:
    """Checks one aggregator on random uploads of six clients, two of which do not respond.

    Guarantees if it returns: clients that did not respond have weight 0; the uplink gives one
    finite factor per client and keeps its bound; the rule gives one finite upload, independent of
    clients that did not respond; the state of the uplink keeps its shapes.

    Args:
      aggregator: to check.
      rates: rates of the server optimizer; by default those of `Config()`.

    Raises:
      InputError: names the first property that does not hold.
    """
    responded = jnp.asarray([True, True, False, True, True, False])
    cohort = Cohort(
        histories=Histories(
            client=np.arange(_CLIENTS, dtype=np.int32),
            item=np.zeros((_CLIENTS, 1), np.int32),
            count=np.ones(_CLIENTS, np.int32),
        ),
        responded=responded,
        local_epochs=jnp.ones(_CLIENTS, jnp.int32),
        weight=jnp.arange(1.0, _CLIENTS + 1),
    )
    alpha = aggregator.reduce.weights(jnp.asarray(cohort.weight), responded)
    _need(
        alpha.shape == (_CLIENTS,) and not bool(jnp.where(responded, 0.0, alpha).any()),
        "Reduce.weights: expected a weight for each client, 0 for those that did not respond",
    )
    state = aggregator.uplink.init()
    uploads = _drawn_uploads(0.0)
    norms = uploads.norms() if aggregator.uplink.needs > Needs.SUM else None
    factor, clipped = aggregator.uplink.weigh(norms, cohort, state)
    _need(
        factor.shape == clipped.shape == (_CLIENTS,) and bool(jnp.isfinite(factor).all()),
        "UplinkTransform.weigh: expected a finite factor and a flag for each client",
    )
    bound = float(aggregator.uplink.bound(state))
    _need(
        bool((jnp.abs(factor) * uploads.norms() <= bound * (1 + 1e-5)).all()),
        f"UplinkTransform.bound: the norm of an upload exceeds {bound:g} after `weigh`",
    )
    after = aggregator.uplink.update(state, clipped, responded)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (state, after)]
    _need(shapes[0] == shapes[1], "UplinkTransform.update: the state changes its shapes")
    _check_rule(aggregator, factor, alpha, responded)
    _check_server(aggregator, rates)


def _drawn_uploads(absent: float) -> SlotUploads:
    """Random uploads of width 3. `absent` is added to those of the two clients that do not
    respond."""
    rows = np.random.default_rng(0).normal(size=(_CLIENTS, _ITEMS, _VIEWS, 3)).astype(np.float32)
    rows[[2, 5]] += absent
    return SlotUploads(
        item=jnp.tile(jnp.arange(_ITEMS, dtype=jnp.int32), (_CLIENTS, 1)),
        rows_of_views=jnp.asarray(rows),
        head={"bias": jnp.asarray(rows[:, 0, 0, 0])},
        scale=1.0,
        num_items=_ITEMS,
        whole=True,
    )


def _check_rule(
    aggregator: Aggregator, factor: jax.Array, alpha: jax.Array, responded: jax.Array
) -> None:
    reduce = aggregator.reduce
    _need(
        (reduce.encode is None) == (reduce.decode is None),
        "Reduce.encode: goes with `decode`; give both or neither",
    )
    combine = reduce.combine
    if reduce.encode is not None and reduce.decode is not None:
        _need(combine is None, "Reduce.combine: does not go with `encode`; give one of them")
        _need(reduce.needs >= Needs.NORMS, "Reduce.needs: a rule with `encode` needs NORMS")
        encode, decode = reduce.encode, reduce.decode
        client = jnp.arange(_CLIENTS, dtype=jnp.int32)
        combine = lambda uploads, alpha, responded: decode(
            encode(uploads, alpha, client, key_of(0))[0], responded
        )
    elif combine is None:
        _need(reduce.needs == Needs.SUM, "Reduce.needs: a rule without `combine` needs SUM")
        return
    else:
        _need(reduce.needs == Needs.WHOLE, "Reduce.needs: a rule with `combine` needs WHOLE")
    found = [
        combine(_drawn_uploads(absent).scaled(factor), alpha, responded) for absent in (0.0, 1e3)
    ]
    expected = Upload(jnp.zeros((_ITEMS, _VIEWS, 3)), {"bias": jnp.zeros(())})
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (found[0], expected)]
    _need(
        shapes[0] == shapes[1],
        f"Reduce.combine: found the shapes {shapes[0]}, expected {shapes[1]}",
    )
    _need(
        _finite(found[0]),
        "Reduce.combine: a number of the combined upload is not finite",
    )
    _need(
        _close(found[0], found[1]),
        "Reduce.combine: the result depends on clients that did not respond",
    )


def _check_server(aggregator: Aggregator, rates: Rates | None) -> None:
    rates = Config().resolved.federation.rates if rates is None else rates
    shared = {"items": jnp.ones((_ITEMS, 3)), "fusion": {}, "head": {}}
    optimizer = aggregator.server(rates)
    stepped, _ = server_step(optimizer, shared, optimizer.init(shared), shared)
    _need(
        jax.tree.map(jnp.shape, stepped) == jax.tree.map(jnp.shape, shared),
        "Aggregator.server: a step of the optimizer changes the shapes of the server's state",
    )


def check_dataset(dataset: Dataset) -> None:
    """Checks a data set that was built without a loader.

    Guarantees if it returns: the three parts have the same users and items; every user has a train
    item; items are ascending, without repetition, and inside the catalogue; no held-out item is
    in an earlier part of its user; features are finite float32 with one row per item; each user and
    item has one original id.

    Args:
      dataset: to check.

    Raises:
      InputError: names the first property that does not hold.
    """
    users, items = dataset.num_users, dataset.num_items
    for name in ("train", "valid", "test"):
        _check_part(name, getattr(dataset, name), users, items)
    without = np.flatnonzero(dataset.train.counts == 0)
    _need(
        not len(without),
        f"Dataset.train: user {without[:1]} has no item; remove users without train items",
    )
    seen = dataset.train.users.astype(np.int64) * items + dataset.train.item
    for name in ("valid", "test"):
        part = getattr(dataset, name)
        pair = part.users.astype(np.int64) * items + part.item
        _need(
            not np.isin(pair, seen).any(),
            f"Dataset.{name}: a user has an item that is also in an earlier part; remove it",
        )
        seen = np.concatenate([seen, pair])
    for name, feature in dataset.features.items():
        _need(
            feature.ndim == 2 and len(feature) == items and feature.dtype == np.float32,
            f"Dataset.features[{name!r}]: found {feature.dtype} {feature.shape}, expected float32 "
            f"({items}, width)",
        )
        _need(np.isfinite(feature).all(), f"Dataset.features[{name!r}]: a number is not finite")
    for field, ids, count in (("user", dataset.user_ids, users), ("item", dataset.item_ids, items)):
        _need(
            len(ids) == count and len(np.unique(ids)) == count,
            f"Dataset.{field}_ids: expected {count} different ids, found {len(np.unique(ids))}",
        )


def _check_part(name: str, part: Interactions, users: int, items: int) -> None:
    _need(
        (part.num_users, part.num_items) == (users, items),
        f"Dataset.{name}: found {part.num_users} users and {part.num_items} items, expected "
        f"{users} and {items}, as in train",
    )
    _need(
        part.indptr[0] == 0 and part.indptr[-1] == len(part.item) and (part.counts >= 0).all(),
        f"Dataset.{name}.indptr: expected to ascend from 0 to the number of interactions",
    )
    _need(
        not len(part) or (part.item.min() >= 0 and part.item.max() < items),
        f"Dataset.{name}.item: expected numbers in [0, {items - 1}]",
    )
    same_user = np.diff(part.users) == 0
    _need(
        (np.diff(part.item)[same_user] > 0).all(),
        f"Dataset.{name}.item: expected to ascend within a user, without repetition; "
        "Interactions.from_pairs does this",
    )
