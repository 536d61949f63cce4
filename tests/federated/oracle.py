"""Algorithm 1 written literally: a loop over clients, rows with their repetitions.

Each client differentiates its loss through the operators by itself; nothing is vmapped
over clients, deduplicated, factored or scattered by hand. Slow on purpose; for float64.
Rows of a client are padded with weight 0 so that one compilation of the loss serves all.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedvlr_jax.data.cohorts import draw_negatives
from fedvlr_jax.federated.aggregation import server_optimizer
from fedvlr_jax.federated.participation import LOCAL, stream


def axpy(scale, x, y):
    return jax.tree.map(lambda a, b: b + scale * a, x, y)


def on_host(function):
    """Compiled, with NumPy arrays as results: what joins them needs no compilation."""
    compiled = jax.jit(function)
    return lambda *inputs: jax.device_get(compiled(*inputs))


def make_client_loss(task):
    """J_u(views, shared head, trained rows; rows) with one row for every pair (u, i)."""
    backbone, fusion = task.model.backbone, task.model.fusion

    def loss(views, head, trained, rows, round_number):
        item, label, weight = rows
        own = weight * label
        pooled = jnp.einsum("r,rgd->gd", own, views[item]) / jnp.sum(own)
        route = fusion.route(trained["router"], pooled.reshape(-1))
        common = jnp.einsum("g,rgd->rd", route, views[item])
        vectors = common + trained["items"][item] if "items" in trained else common
        scores = backbone.score(head, trained["head"], vectors)
        total = jnp.sum(own[:, None] * common, axis=0)
        others = (total - own[:, None] * common) / jnp.sum(own)
        scores += task.config.model.history_weight * jnp.sum(common * others, axis=-1)
        if task.config.federation.loss == "softmax":
            negative = weight * (1 - label)
            outside = task.pool.item.shape[0] - jnp.sum(label)
            stands_for = outside / jnp.maximum(jnp.sum(negative), 1e-9)
            total = jnp.sum((label + stands_for * negative) * jnp.exp(scores))
            each = -label * jnp.log(jnp.exp(scores) / total)
        else:
            probability = jax.nn.sigmoid(scores)
            each = -label * jnp.log(probability) - (1 - label) * jnp.log1p(-probability)
        if backbone.penalty is not None:
            annealed = jnp.tanh(round_number / 10)
            apart = jnp.mean((trained["items"][item] - common) ** 2, axis=1)
            size = jnp.mean(jnp.abs(views[item]), axis=2) @ route
            each += annealed * task.config.model.fedrap_sparse * size
            each -= annealed * task.config.model.fedrap_apart * apart
        return jnp.sum(weight * each) / jnp.sum(weight)

    return loss


def client_rows(task, key, history, counts_as, client, epoch, padded_length):
    """(item, label, weight) of one client's loss in one epoch, padded with weight 0."""
    config = task.config.federation
    pool = [int(i) for i in task.pool.item]
    outside = [i for i in pool if i not in set(history.tolist())]
    if config.negatives == "expected":
        rate = config.num_negatives * len(history) / max(len(outside), 1)
        negatives, weights = outside, [rate] * len(outside)
    else:
        padded = np.full(padded_length, task.model.num_items, np.int32)
        padded[: len(history)] = history
        key = jax.random.fold_in(jax.random.fold_in(key, client), epoch)
        drawn = np.asarray(
            draw_negatives(key, padded, np.int32(len(history)), task.pool, config.num_negatives)
        )
        negatives = [int(i) for i in drawn if i < task.model.num_items]
        weights = [1.0] * len(negatives)
    size = padded_length + max(task.model.num_items, padded_length * config.num_negatives)
    item, label, weight = np.zeros(size, np.int32), np.zeros(size), np.zeros(size)
    item[: len(history)], label[: len(history)], weight[: len(history)] = history, 1, counts_as
    place = slice(len(history), len(history) + len(negatives))
    item[place], weight[place] = negatives, weights
    return item, label, weight


def make_literal_round(task):
    """(server, list of each client's rows, cohort, features) -> (server, list of rows)."""
    config, privacy = task.config.federation, task.config.privacy
    backbone, fusion = task.model.backbone, task.model.fusion
    delta = config.upload == "delta"
    steps = {"head": config.client_lr, "router": config.router_lr, "items": config.item_lr}
    loss = make_client_loss(task)

    def through_operators(items, gamma, features, *rest):
        return loss(fusion.views(gamma, items, features), *rest)

    by_inputs = on_host(jax.grad(loss, (0, 1, 2)))
    by_server = on_host(jax.grad(through_operators, (0, 1)))
    views_of = on_host(lambda items, gamma, features: fusion.views(gamma, items, features))
    optimizer = server_optimizer(config.server_optimizer, config.rates)

    @on_host
    def pull_back(items, gamma, features, by_views):
        return jax.vjp(lambda d, g: fusion.views(g, d, features), items, gamma)[1](by_views)

    @on_host
    def server_step(mean, state, shared):
        step, state = optimizer.update(mean, state, shared)
        return optax.apply_updates(shared, step), state

    def literal_round(server, private, cohort, features):
        shared = server.shared
        key = stream(server.key, LOCAL, server.round)
        views = views_of(shared["items"], shared["fusion"], features)
        pairs = zip(cohort.weight, cohort.present, strict=True)
        total_weight = sum(float(w) for w, p in pairs if p)
        mean = jax.tree.map(np.zeros_like, {k: shared[k] for k in ("items", "fusion", "head")})
        mean_views = np.zeros_like(views)
        new_private = []
        for u, rows in enumerate(private):
            if not cohort.present[u]:
                new_private.append(rows)
                continue
            history = np.asarray(cohort.histories.item[u][: int(cohort.histories.count[u])])
            counts_as = np.ones(len(history))
            if cohort.histories.weight is not None:
                counts_as = np.asarray(cohort.histories.weight[u][: len(history)], float)
            alpha = float(cohort.weight[u]) / total_weight
            trained = dict(rows)
            if backbone.item_rows == "tuned":
                trained["items"] = np.zeros_like(rows["items"])
            my_views, my_head = views, shared["head"]
            through = jax.tree.map(np.zeros_like, mean)
            by_views_sum = np.zeros_like(views)
            for epoch in range(int(cohort.local_epochs[u])):
                padded_length = cohort.histories.item.shape[1]
                data = client_rows(task, key, history, counts_as, u, epoch, padded_length)
                by_views, by_head, by_trained = by_inputs(
                    my_views, my_head, trained, data, server.round
                )
                if delta:
                    my_views = my_views - config.copy_lr * by_views
                    my_head = axpy(-config.copy_lr, by_head, my_head)
                else:
                    by_items, by_gamma = by_server(
                        shared["items"],
                        shared["fusion"],
                        features,
                        my_head,
                        trained,
                        data,
                        server.round,
                    )
                    step = {"items": by_items, "fusion": by_gamma, "head": by_head}
                    through = axpy(1.0, step, through)
                    by_views_sum += by_views
                by_trained["head"] = axpy(config.client_decay, trained["head"], by_trained["head"])
                trained = {k: axpy(-steps[k], by_trained[k], trained[k]) for k in trained}
            new_private.append(trained)
            if delta:
                by_views_sum = views - my_views
                through["head"] = jax.tree.map(np.subtract, shared["head"], my_head)
            leaves = [by_views_sum, *jax.tree.leaves(through["head"])]
            norm = np.sqrt(sum(float(np.sum(leaf**2)) for leaf in leaves))
            if privacy.clip_norm and norm > privacy.clip_norm:
                alpha *= privacy.clip_norm / norm
            mean = axpy(alpha, through, mean)
            mean_views += alpha * by_views_sum
        if delta:
            mean["items"], mean["fusion"] = pull_back(
                shared["items"], shared["fusion"], features, mean_views
            )
        shared, state = server_step(mean, server.optimizer, shared)
        return server._replace(shared=shared, optimizer=state), new_private

    return literal_round
