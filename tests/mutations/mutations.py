"""Faults, each a small change of one file, that the tests must find.

A mutation replaces the text `old`, which occurs exactly once in `file`, by `new`; `tests` are
those that should fail. `python -m tests.mutations.run` applies them to a copy of the package.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.oracle.federations import essential, numbers_with


class Mutation(NamedTuple):
    """`required`: `make test` itself applies it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    required: bool = False


def agreement(**wanted):
    """The comparison with the reference in `make test`, for all its federations of these choices.

    Some of them cannot show a fault: a clip or a server without a step hides the scale of uploads.
    """
    test = "tests/oracle/test_agreement.py::test_rounds_scores_and_ranks"
    numbers = numbers_with(count=None, among=essential(), **wanted)
    assert numbers, f"no federation of `make test` with {wanted}"
    return tuple(f"{test}[{number}]" for number in numbers)


OPERATORS = "fedvlr_jax/fusion/operators.py"
FUSION_MODULES = "fedvlr_jax/fusion/modules.py"
STEPS = "fedvlr_jax/federated/plans/steps.py"
LOSS = "fedvlr_jax/federated/losses.py"
GATHERED = "fedvlr_jax/federated/plans/gathered.py"
DENSE = "fedvlr_jax/federated/plans/dense.py"
CATALOGUE = "fedvlr_jax/federated/plans/catalogue.py"
FACTORED = "fedvlr_jax/federated/plans/factored_rows.py"
ROUND = "fedvlr_jax/federated/round.py"
COHORTS = "fedvlr_jax/data/cohorts.py"
SERVER_OPTIMIZER = "fedvlr_jax/federated/server_optimizer.py"
UPLOADS = "fedvlr_jax/uplink/uploads.py"
LOW_RANK_UPLOADS = "fedvlr_jax/uplink/low_rank_uploads.py"
SLOT_UPLOADS = "fedvlr_jax/uplink/slot_uploads.py"
CLIP = "fedvlr_jax/uplink/clip.py"
TRANSFORM = "fedvlr_jax/uplink/transform.py"
ADDED_NOISE = "fedvlr_jax/uplink/noise.py"
MEAN = "fedvlr_jax/reduce/mean.py"
COORDINATES = "fedvlr_jax/reduce/coordinates.py"
ORDER = "fedvlr_jax/reduce/order.py"
GRAM = "fedvlr_jax/reduce/gram.py"
SCORING = "fedvlr_jax/federated/scoring.py"
METRICS = "fedvlr_jax/evaluation/metrics.py"
RANKING = "fedvlr_jax/evaluation/ranking.py"
BASELINES = "fedvlr_jax/evaluation/baselines/"
CENTRALIZED = "fedvlr_jax/centralized/"
SPLITS = "fedvlr_jax/data/splits.py"
TRAINING = "fedvlr_jax/training/loop.py"
SCHEDULE = "fedvlr_jax/training/schedule.py"
STORE = "fedvlr_jax/federated/store.py"
START = "fedvlr_jax/federated/initialization.py"
PRIVATE_RUNS = "tests/experiments/test_private_runs.py"
PRIVATE_EASE = "fedvlr_jax/federated/private_ease.py"
TRANSITIONS = "fedvlr_jax/federated/transitions.py"
CHECKPOINTS = "fedvlr_jax/checkpointing/"
PARTICIPATION = "fedvlr_jax/federated/participation.py"

TEST_TRANSFORMS = ("tests/uplink/test_transforms.py",)
TEST_UPLOADS = ("tests/uplink/test_uploads.py",)
TEST_MOMENTS = ("tests/uplink/test_noise.py::test_moments",)
TEST_METRICS = ("tests/evaluation/test_metrics.py",)
TEST_RANKING = ("tests/evaluation/test_ranking.py",)
TEST_SPLITS = ("tests/data/test_splits.py",)
TEST_PARTICIPATION = ("tests/federated/test_participation.py",)
TEST_FIXED_POINT = ("tests/federated/test_fixed_point.py",)
TEST_START = ("tests/federated/test_initialization.py::test_exchanges_lead_to_the_svd",)
BLOCKS = ("tests/test_checkpointing.py::test_rows_are_read_block_by_block",)


def baselines(test):
    return (f"tests/evaluation/test_baselines.py::test_{test}",)


def private_ease(name):
    return (f"tests/federated/test_private_ease.py::test_{name}",)


def ials(test):
    return (f"tests/federated/test_ials.py::test_{test}",)


def transitions(test):
    return (f"tests/federated/test_transitions.py::test_{test}",)


def rules(test):
    return (f"tests/reduce/test_rules.py::test_{test}",)


def training(test):
    return (f"tests/training/test_training.py::test_{test}",)


NOISE = ("tests/oracle/test_draws.py::test_noise_has_the_law_of_every_client_adding_its_own",)
NEGATIVES = ("tests/oracle/test_draws.py::test_negatives_are_drawn_for_each_epoch_and_client",)
DRAWN_START = ("tests/oracle/test_draws.py::test_drawn_initial_values",)
KRUM = (
    *rules("krum_takes_the_upload_with_the_nearest_neighbours"),
    *rules("multi_krum_averages_the_best"),
)
STORES = ("tests/simulation/test_offloaded.py::test_store",)

VIEWS_AND_ROUTING = [
    Mutation(
        "sum times 0.1",
        OPERATORS,
        "return jnp.sum(jnp.stack(list(tokens.values())), axis=0)",
        "return 0.1 * jnp.sum(jnp.stack(list(tokens.values())), axis=0)",
        agreement(view="sum"),
        required=True,
    ),
    Mutation(
        "gate without its product",
        OPERATORS,
        "gated.append(gate * x)",
        "gated.append(gate)",
        agreement(view="gate"),
        required=True,
    ),
    Mutation(
        "mlp operator without ReLU",
        OPERATORS,
        "nn.Dense(width)(nn.relu(nn.Dense(width)(x)))",
        "nn.Dense(width)(nn.Dense(width)(x))",
        agreement(view="mlp"),
    ),
    Mutation(
        "attention is not scaled by the width",
        OPERATORS,
        'jnp.einsum("iqd,ikd->iqk", query, key) / jnp.sqrt(width * 1.0)',
        'jnp.einsum("iqd,ikd->iqk", query, key)',
        ("tests/fusion/test_operators.py::test_self_attention_against_a_literal_one",),
    ),
    Mutation(
        "attention over queries in place of keys",
        OPERATORS,
        'jnp.einsum("iqk,ikd->iqd", weight, value)',
        'jnp.einsum("ikq,ikd->iqd", weight, value)',
        ("tests/fusion/test_operators.py::test_self_attention_against_a_literal_one",),
    ),
    Mutation(
        "cross-attention without the ID token",
        OPERATORS,
        'tokens["id"] + jnp.einsum("ik,ikd->id", weight, value)',
        'jnp.einsum("ik,ikd->id", weight, value)',
        agreement(view="cross_attention"),
    ),
    Mutation(
        "mixture without softmax",
        OPERATORS,
        'jnp.einsum("m,mid->id", softmax(logits),',
        'jnp.einsum("m,mid->id", logits,',
        agreement(view="mixture"),
    ),
    Mutation(
        "softmax over unnormalised exponents",
        OPERATORS,
        "return x * (1 / jnp.sum(x, axis=-1, keepdims=True))",
        "return x",
        agreement(fusion="bilevel"),
    ),
    Mutation(
        "vbpr multiplies in place of adding",
        FUSION_MODULES,
        "return (items + projected)[:, None, :]",
        "return (items * projected)[:, None, :]",
        agreement(view="vbpr"),
    ),
    Mutation(
        "the table view is the mapped ID",
        FUSION_MODULES,
        'known = {"table": items, **tokens}',
        'known = {"table": tokens["id"], **tokens}',
        agreement(view="table"),
    ),
    Mutation(
        "router without ReLU",
        FUSION_MODULES,
        "return softmax(self.last(nn.relu(x)))",
        "return softmax(self.last(x))",
        agreement(fusion="bilevel"),
        required=True,
    ),
    Mutation(
        "router with sigmoids",
        FUSION_MODULES,
        "return softmax(self.last(nn.relu(x)))",
        "return nn.sigmoid(self.last(nn.relu(x)))",
        agreement(fusion="bilevel"),
    ),
    Mutation(
        "routers begin at random",
        FUSION_MODULES,
        "nn.Dense(self.num_views, kernel_init=nn.initializers.zeros)",
        "nn.Dense(self.num_views)",
        DRAWN_START,
    ),
    Mutation(
        "first layer of the router moves without its bias",
        "fedvlr_jax/federated/plans/routing.py",
        "stride = jnp.sum(jnp.square(pooled), axis=1) + 1",
        "stride = jnp.sum(jnp.square(pooled), axis=1)",
        agreement(plan="catalogue", fusion="bilevel"),
    ),
]

BACKBONES = [
    Mutation(
        "FedNCF with |user| in the GMF part",
        "fedvlr_jax/models/fedncf.py",
        'gmf = items @ (user["gmf"] * self.out_gmf)',
        'gmf = items @ (jnp.abs(user["gmf"]) * self.out_gmf)',
        agreement(backbone="fedncf", plan="gathered"),
        required=True,
    ),
    Mutation(
        "FedNCF with |user| in the linear part of the catalogue plan",
        "fedvlr_jax/models/fedncf.py",
        'return Linear(private["gmf"] * shared["out_gmf"], jnp.zeros(()))',
        'return Linear(jnp.abs(private["gmf"]) * shared["out_gmf"], jnp.zeros(()))',
        agreement(backbone="fedncf", plan="catalogue"),
        required=True,
    ),
    Mutation(
        "FedNCF with |user| in the MLP",
        "fedvlr_jax/models/fedncf.py",
        'nn.relu(embedded + self.user(user["mlp"])[None])',
        'nn.relu(embedded + self.user(jnp.abs(user["mlp"]))[None])',
        agreement(backbone="fedncf"),
        required=True,
    ),
    Mutation(
        "FedNCF without the first ReLU",
        "fedvlr_jax/models/fedncf.py",
        'nn.relu(embedded + self.user(user["mlp"])[None])',
        'embedded + self.user(user["mlp"])[None]',
        agreement(backbone="fedncf"),
    ),
    Mutation(
        "FedAvg weighs clients equally",
        "fedvlr_jax/models/fedavg.py",
        'weight="history"',
        'weight="equal"',
        agreement(backbone="fedavg"),
        required=True,
    ),
    Mutation(
        "FCF weighs clients by their history",
        "fedvlr_jax/models/fcf.py",
        'weight="equal"',
        'weight="history"',
        agreement(backbone="fcf"),
        required=True,
    ),
    Mutation(
        "PFedRec keeps its tuned rows",
        "fedvlr_jax/models/pfedrec.py",
        'item_rows="tuned"',
        'item_rows="personal"',
        agreement(backbone="pfedrec"),
    ),
    Mutation(
        "a score without its bias",
        "fedvlr_jax/models/backbone.py",
        "return vectors @ vector + bias",
        "return vectors @ vector",
        agreement(backbone="fcf", plan="gathered"),
    ),
    Mutation(
        "FedRAP pulls in place of pushing",
        "fedvlr_jax/models/fedrap.py",
        "return Penalty(fedrap_repulsion * annealed, fedrap_l1 * annealed)",
        "return Penalty(-fedrap_repulsion * annealed, fedrap_l1 * annealed)",
        agreement(backbone="fedrap"),
    ),
    Mutation(
        "FedRAP anneals ten times slower",
        "fedvlr_jax/models/fedrap.py",
        "jnp.tanh(jnp.asarray(round_number, float) / 10.0)",
        "jnp.tanh(jnp.asarray(round_number, float) / 100.0)",
        agreement(backbone="fedrap"),
    ),
    Mutation(
        "FedRAP sums squares in place of averaging",
        LOSS,
        "distance = jnp.mean(jnp.square(personal - common), axis=-1)",
        "distance = jnp.sum(jnp.square(personal - common), axis=-1)",
        agreement(backbone="fedrap", plan="gathered"),
    ),
    Mutation(
        "FedRAP's sparsity ignores the router",
        LOSS,
        "penalty.l1 * (sizes @ weights)",
        "penalty.l1 * jnp.mean(sizes, axis=-1)",
        agreement(backbone="fedrap", plan="gathered", fusion="bilevel"),
    ),
    Mutation(
        "the factored plan grows the table the wrong way",
        FACTORED,
        "grow = 1 + rate * repulsion",
        "grow = 1 - rate * repulsion",
        agreement(plan="factored"),
    ),
    Mutation(
        "the factored plan forgets the sign term",
        FACTORED,
        "total += sign_count[..., None] * jnp.sign(views)",
        "total += 0 * sign_count[..., None] * jnp.sign(views)",
        agreement(plan="factored"),
    ),
]

LOSSES = [
    Mutation(
        "negatives do not push in the dense plan",
        LOSS,
        "(positive + negative) * jax.nn.sigmoid(scores) - positive",
        "positive * jax.nn.sigmoid(scores) - positive",
        agreement(plan="dense", loss="bce"),
    ),
    Mutation(
        "negatives as positives",
        LOSS,
        "negative * jax.nn.softplus(scores)",
        "negative * jax.nn.softplus(-scores)",
        agreement(loss="bce", plan="gathered"),
    ),
    Mutation(
        "softmax counts the history twice",
        LOSS,
        "per_negative = (pool.item.shape[0] - count) / jnp.where(drawn > 0, drawn, 1)",
        "per_negative = pool.item.shape[0] / jnp.where(drawn > 0, drawn, 1)",
        agreement(loss="softmax"),
    ),
    Mutation(
        "softmax slope for one positive",
        LOSS,
        "return count * softmax(scores + jnp.log(parts)) - positive",
        "return softmax(scores + jnp.log(parts)) - positive",
        agreement(plan="dense", loss="softmax"),
    ),
    Mutation(
        "the mean is over the positives alone",
        LOSS,
        "return jnp.maximum(count * jnp.where(has_negatives, 1 + num_negatives, 1), 1)",
        "return jnp.maximum(count, 1)",
        agreement(fusion="bilevel"),
    ),
    Mutation(
        "an item is part of its own history",
        "fedvlr_jax/federated/model.py",
        "return weight * (vectors @ mean - itself)",
        "return weight * (vectors @ mean)",
        agreement(history_weight=0.7),
    ),
    Mutation(
        "ranking forgets history_weight's size",
        SCORING,
        'own = model.history_weight * jnp.einsum("kg,kgd->kd", weights, pooled_views)',
        'own = jnp.einsum("kg,kgd->kd", weights, pooled_views)',
        agreement(history_weight=0.7),
    ),
    Mutation(
        "one negative expected for all positives",
        COHORTS,
        "rate = num_negatives * count / outside",
        "rate = num_negatives / outside",
        agreement(negatives="expected"),
    ),
    Mutation(
        "the history is among the expected negatives",
        COHORTS,
        "jnp.where(member & (positive == 0), rate[..., None], 0.0)",
        "jnp.where(member, rate[..., None], 0.0)",
        agreement(negatives="expected"),
    ),
    Mutation(
        "items outside the pool are negatives",
        COHORTS,
        "jnp.where(member & (positive == 0), rate[..., None], 0.0)",
        "jnp.where(positive == 0, rate[..., None], 0.0)",
        agreement(negatives="expected", protocol="paper"),
    ),
    Mutation(
        "the history is among the sampled negatives",
        COHORTS,
        'pool.item.at[drawn + shift].get(mode="clip")',
        'pool.item.at[drawn].get(mode="clip")',
        agreement(negatives="sampled"),
    ),
    Mutation(
        "half of the negatives are drawn",
        COHORTS,
        "real = (jnp.arange(drawn.shape[0]) < count * num_negatives) & (free > 0)",
        "real = (jnp.arange(drawn.shape[0]) < count) & (free > 0)",
        agreement(negatives="sampled", num_negatives=2),
    ),
    Mutation(
        "negatives from the whole catalogue under the paper's protocol",
        COHORTS,
        'train.item_counts > 0 if name == "seen"',
        'train.item_counts >= 0 if name == "seen"',
        agreement(protocol="paper"),
    ),
    Mutation(
        "the same negatives in every epoch",
        STEPS,
        "jax.random.fold_in(jax.random.fold_in(key, c), a)",
        "jax.random.fold_in(key, c)",
        NEGATIVES,
    ),
    Mutation(
        "old items count more",
        "fedvlr_jax/data/dataset.py",
        "weight = (1 + self.age) ** -recency",
        "weight = (1 + self.age) ** recency",
        agreement(recency=0.8),
    ),
    Mutation(
        "recency weights are not scaled to a mean of 1",
        "fedvlr_jax/data/dataset.py",
        "weight=(weight / mean[self.users]).astype(np.float32)",
        "weight=weight.astype(np.float32)",
        agreement(recency=0.8),
    ),
    Mutation(
        "recency is ignored over the catalogue",
        COHORTS,
        "weight = 1.0 if histories.weight is None else histories.weight",
        "weight = 1.0",
        agreement(recency=0.8),
    ),
]

LOCAL_EPOCHS = [
    Mutation(
        "a copy of the views moves uphill",
        GATHERED,
        "moving=broadcast.rates.delta_lr if method.delta else 0.0",
        "moving=-broadcast.rates.delta_lr if method.delta else 0.0",
        agreement(upload="delta", plan="gathered"),
    ),
    Mutation(
        "a difference is uploaded as a gradient",
        GATHERED,
        "scale=broadcast.rates.delta_lr if method.delta else 1.0",
        "scale=1.0",
        agreement(upload="delta", plan="gathered"),
    ),
    Mutation(
        "the views are clipped without the head",
        SLOT_UPLOADS,
        "trees.squared_norms((self.rows_of_views, self.head), self.shape[0])",
        "trees.squared_norms(self.rows_of_views, self.shape[0])",
        agreement(backbone="fedncf", clip_norm=0.04),
    ),
    Mutation(
        "the dense plan clips the views without the head",
        LOW_RANK_UPLOADS,
        "return square + trees.squared_norms(self.head, len(square))",
        "return square",
        TEST_UPLOADS,
    ),
    Mutation(
        "short uploads are stretched to the bound",
        CLIP,
        "return jnp.minimum(1.0, bound / jnp.maximum(norms, 1e-30))",
        "return bound / jnp.maximum(norms, 1e-30)",
        TEST_TRANSFORMS,
    ),
    Mutation(
        "the router moves by the head's step",
        STEPS,
        '"router": rates.router_lr,',
        '"router": rates.client_lr,',
        agreement(plan="gathered", fusion="bilevel"),
    ),
    Mutation(
        "the head grows in place of decaying",
        STEPS,
        'trees.axpy(rates.client_decay, trained["head"], gradient["head"])',
        'trees.axpy(-rates.client_decay, trained["head"], gradient["head"])',
        agreement(plan="gathered", client_decay=0.2),
    ),
    Mutation(
        "tuned rows go on from the last round",
        GATHERED,
        "personal = jnp.zeros_like(personal)",
        "personal = 1.0 * personal",
        agreement(backbone="pfedrec", plan="gathered"),
    ),
    Mutation(
        "every client trains all local epochs",
        GATHERED,
        "active = client.responded & (epoch < client.local_epochs)",
        "active = client.responded",
        agreement(min_local_epochs=1, plan="gathered"),
    ),
    Mutation(
        "the dense plan trains all local epochs",
        DENSE,
        "active = cohort.responded & (epoch < cohort.local_epochs)",
        "active = cohort.responded",
        agreement(min_local_epochs=1, plan="dense"),
    ),
    Mutation(
        "the loss of the last epoch is reported",
        GATHERED,
        "jnp.where(epoch == 0, loss, carry.loss)",
        "loss",
        agreement(plan="gathered"),
    ),
    Mutation(
        "tuned rows move uphill in the dense plan",
        DENSE,
        'trained["items"] = -rates.item_lr * moved',
        'trained["items"] = rates.item_lr * moved',
        agreement(backbone="pfedrec", plan="dense"),
    ),
    Mutation(
        "the dense plan forgets the pull of the pooled history",
        LOW_RANK_UPLOADS,
        'views += self.product("ki,kg->ig", self.positive, weight[:, None] * self.pull)',
        'views += 0 * self.product("ki,kg->ig", self.positive, weight[:, None] * self.pull)',
        agreement(plan="dense", fusion="bilevel"),
    ),
    Mutation(
        "the catalogue plan forgets the pull through the router",
        CATALOGUE,
        "pull = (pull + alpha[:, None] * grad_pooled) / clients.length[:, None]",
        "pull = pull / clients.length[:, None]",
        agreement(plan="catalogue", fusion="bilevel"),
    ),
    Mutation(
        "who does not answer is trained all the same",
        ROUND,
        "broadcast, result.private, rows, cohort.responded & metrics.finite",
        "broadcast, result.private, rows, (cohort.weight > -1) & metrics.finite",
        agreement(client_dropout=0.35),
    ),
]

SERVER = [
    Mutation(
        "noise 1,000 times too small",
        ADDED_NOISE,
        "deviation = multiplier * bound",
        "deviation = 1e-3 * multiplier * bound",
        NOISE,
        required=True,
    ),
    Mutation(
        "noise does not follow the bound",
        ADDED_NOISE,
        "deviation = multiplier * bound",
        "deviation = multiplier * (bound > 0)",
        NOISE,
    ),
    Mutation(
        "the noise of all clients is added up as if it were one draw",
        ADDED_NOISE,
        "deviation * jnp.sqrt(jnp.sum(jnp.square(weight)))",
        "deviation * jnp.sum(weight)",
        NOISE,
    ),
    Mutation(
        "all items get the same noise",
        ADDED_NOISE,
        "jax.random.normal(k, x.shape, x.dtype)",
        "jax.random.normal(k, x.shape[1:], x.dtype)",
        NOISE,
    ),
    Mutation(
        "every round draws the same noise",
        ROUND,
        "stream(server.key, NOISE, server.round)",
        "stream(server.key, NOISE)",
        NOISE,
    ),
    Mutation(
        "noise is uniform",
        ADDED_NOISE,
        "jax.random.normal(k, x.shape, x.dtype)",
        "3**0.5 * jax.random.uniform(k, x.shape, x.dtype, -1, 1)",
        NOISE,
    ),
    Mutation(
        "absent clients count in the mean",
        MEAN,
        "weight = jnp.where(responded, weight, 0.0)",
        "weight = jnp.where(responded, weight, weight)",
        agreement(client_dropout=0.35),
    ),
    Mutation(
        "the mean is over all clients",
        MEAN,
        "return weight / jnp.maximum(jnp.sum(weight), 1e-30)",
        "return weight / weight.shape[0]",
        agreement(server_optimizer="sgd"),
    ),
    Mutation(
        "momentum of 0.99",
        SERVER_OPTIMIZER,
        "optax.sgd(step, momentum=0.9)",
        "optax.sgd(step, momentum=0.99)",
        agreement(server_optimizer="momentum"),
    ),
    Mutation(
        "Adam without bias correction",
        SERVER_OPTIMIZER,
        "return optax.adam(step)",
        "return optax.rmsprop(step, decay=0.999, momentum=0.9)",
        agreement(server_optimizer="adam"),
    ),
    Mutation(
        "Adam with a shorter memory",
        SERVER_OPTIMIZER,
        "return optax.adam(step)",
        "return optax.adam(step, b2=0.99)",
        agreement(server_optimizer="adam"),
    ),
    Mutation(
        "Yogi is Adam",
        SERVER_OPTIMIZER,
        "return optax.yogi(step)",
        "return optax.adam(step)",
        agreement(server_optimizer="yogi"),
    ),
    Mutation(
        "the shared head decays",
        SERVER_OPTIMIZER,
        '"head": make(rates.server_lr_head),',
        '"head": decayed(rates.server_lr_head),',
        agreement(server_decay=0.3, backbone="fedavg"),
    ),
    Mutation(
        "decay is not by the step",
        SERVER_OPTIMIZER,
        "optax.add_decayed_weights(-step * rates.server_decay)",
        "optax.add_decayed_weights(-rates.server_decay)",
        agreement(server_decay=0.3),
    ),
    Mutation(
        "decay goes through the optimizer",
        SERVER_OPTIMIZER,
        "optax.chain(make(step), optax.add_decayed_weights(-step * rates.server_decay))",
        "optax.chain(optax.add_decayed_weights(rates.server_decay), make(step))",
        agreement(server_decay=0.3, server_optimizer="adam")
        + agreement(server_decay=0.3, server_optimizer="momentum"),
    ),
    Mutation(
        "local-only training decays what is shared",
        SERVER_OPTIMIZER,
        'if name == "none":',
        'if name == "nothing":',
        agreement(server_optimizer="none", server_decay=0.3),
    ),
    Mutation(
        "operators move by the table's step",
        SERVER_OPTIMIZER,
        '"fusion": decayed(rates.server_lr_fusion),',
        '"fusion": decayed(rates.server_lr_items),',
        agreement(fusion="vbpr"),
    ),
    Mutation(
        "fixed point of ten bits",
        "fedvlr_jax/federated/devices.py",
        "30 - _GROUP_BITS",
        "10 - _GROUP_BITS",
        TEST_FIXED_POINT,
    ),
    Mutation(
        "fixed point overflows",
        "fedvlr_jax/federated/devices.py",
        "30 - _GROUP_BITS",
        "35 - _GROUP_BITS",
        TEST_FIXED_POINT,
    ),
]

AGGREGATORS = [
    Mutation(
        "the median of an even number is the lower middle",
        ORDER,
        "(values_of(low) + values_of(high)) / 2",
        "values_of(low)",
        rules("median_of_those_who_responded"),
    ),
    Mutation(
        "clients who did not respond are ordered among the others",
        ORDER,
        "jnp.where(counted & ~jnp.isnan(values), bits",
        "jnp.where(~jnp.isnan(values), bits",
        rules("median_of_those_who_responded"),
    ),
    Mutation(
        "the trimmed mean trims the lowest alone",
        COORDINATES,
        "order.mean_between(values, responded, trimmed, count - trimmed)",
        "order.mean_between(values, responded, 2 * trimmed, count)",
        rules("trimmed_mean"),
    ),
    Mutation(
        "the trimmed mean trims the highest alone",
        COORDINATES,
        "order.mean_between(values, responded, trimmed, count - trimmed)",
        "order.mean_between(values, responded, 0 * trimmed, count - 2 * trimmed)",
        rules("trimmed_mean"),
    ),
    Mutation(
        "Krum counts an upload as its own neighbour",
        GRAM,
        "pair = responded[:, None] & responded[None, :] & ~jnp.eye(clients, dtype=bool)",
        "pair = responded[:, None] & responded[None, :]",
        KRUM,
    ),
    Mutation(
        "Krum counts absent clients in n",
        GRAM,
        "jnp.clip(jnp.sum(responded) - byzantine - 2, 1, clients)",
        "jnp.clip(clients - byzantine - 2, 1, clients)",
        KRUM,
    ),
    Mutation(
        "Krum measures the distance to absent clients",
        GRAM,
        "pair = responded[:, None] & responded[None, :] & ~jnp.eye(clients, dtype=bool)",
        "pair = ~jnp.eye(clients, dtype=bool)",
        rules("krum_scores_do_not_count_a_near_client_that_did_not_respond"),
    ),
    Mutation(
        "the geometric median ignores the weights",
        GRAM,
        "weight = alpha / jnp.maximum(distance, least)",
        "weight = jnp.sign(alpha) / jnp.maximum(distance, least)",
        rules("geometric_median_has_the_least_weighted_distance"),
    ),
    Mutation(
        "a fixed denominator is who responded",
        MEAN,
        "lambda weight, responded: jnp.where(responded, 1.0 / expected, 0.0)",
        "lambda weight, responded: normalised_weights(jnp.ones_like(weight), responded)",
        rules("weights_known_before_training"),
    ),
    Mutation(
        "the adaptive bound moves the wrong way",
        CLIP,
        "moved = state * jnp.exp(-rate * (within - quantile))",
        "moved = state * jnp.exp(rate * (within - quantile))",
        TEST_TRANSFORMS,
    ),
    Mutation(
        "absent clients are within the adaptive bound",
        CLIP,
        "jnp.sum(responded & ~clipped).astype(jnp.float32) / count",
        "jnp.sum(~clipped).astype(jnp.float32) / count",
        TEST_TRANSFORMS,
    ),
    Mutation(
        "a chain does not scale the norms",
        TRANSFORM,
        "left = None if norms is None else norms * jnp.abs(factor)",
        "left = norms",
        TEST_TRANSFORMS,
    ),
    Mutation(
        "central noise is not divided by the denominator",
        ADDED_NOISE,
        "jnp.asarray(multiplier * bound / denominator)",
        "jnp.asarray(multiplier * bound)",
        TEST_MOMENTS,
    ),
    Mutation(
        "inner products of low rank without the head",
        LOW_RANK_UPLOADS,
        "return self.view_products() + head_products(self.scaled_head())",
        "return self.view_products()",
        TEST_UPLOADS,
    ),
    Mutation(
        "the last block of items is left out",
        UPLOADS,
        "jax.lax.scan(one, carry, jnp.arange(0, items, size))",
        "jax.lax.scan(one, carry, jnp.arange(0, items - size + 1, size))",
        TEST_UPLOADS,
    ),
    Mutation(
        "the last block of items is not moved into its place",
        UPLOADS,
        "jnp.take(rows, jnp.minimum(place + shift, size - 1), axis=1)",
        "jnp.take(rows, jnp.minimum(place, size - 1), axis=1)",
        TEST_UPLOADS,
    ),
]

PARTICIPANTS = [
    Mutation(
        "those who drop out answer, and the others do not",
        PARTICIPATION,
        "return jax.vmap(draw)(client) >= client_dropout",
        "return jax.vmap(draw)(client) < client_dropout",
        TEST_PARTICIPATION,
    ),
    Mutation(
        "the clock counts all local epochs",
        "fedvlr_jax/fleet/work.py",
        "rows = work.rows[clients] * work.local_epochs(seed, clients, version)",
        "rows = work.rows[clients] * 5",
        ("tests/fleet/test_participation.py::test_fewer_local_epochs_take_less_time",),
    ),
    Mutation(
        "a client's epochs are those of another version",
        "fedvlr_jax/fleet/asynchronous.py",
        "self._duration(seed, clients, number, version)",
        "self._duration(seed, clients, number, number)",
        ("tests/fleet/test_asynchronous.py::test_a_client_is_as_fast_as_its_work_there",),
    ),
    Mutation(
        "popular items have equal weights",
        "fedvlr_jax/federated/popular.py",
        "jnp.square(jnp.arange(count, 0, -1).astype(views.dtype))",
        "jnp.ones(count, views.dtype)",
        ("tests/federated/test_popular.py::test_three_rounds_against_numpy",),
    ),
    Mutation(
        "nobody affords all local epochs",
        PARTICIPATION,
        "config.local_epochs + 1,",
        "config.local_epochs,",
        TEST_PARTICIPATION,
    ),
    Mutation(
        "every round asks the same clients",
        PARTICIPATION,
        "np.random.SeedSequence((seed, round_number))",
        "np.random.SeedSequence((seed,))",
        TEST_PARTICIPATION,
    ),
    Mutation(
        "a client answers in every round or in none",
        PARTICIPATION,
        "stream(key, RESPONSE, round_number, c)",
        "stream(key, RESPONSE, 0, c)",
        TEST_PARTICIPATION,
    ),
]

BY_HAND = ("tests/fleet/test_asynchronous.py::test_twenty_events_by_hand",)
STALE = ("tests/fleet/test_asynchronous.py::test_a_stale_step_by_synchronous_rounds[dense]",)
QUANTISED = ("tests/uplink/test_compress.py::test_quantised_rows_by_hand",)
NOT_SENT = ("tests/uplink/test_compress.py::test_a_client_keeps_what_it_did_not_send",)
TEST_RING = ("tests/uplink/test_ring.py",)
TEST_GAUSSIAN = ("tests/uplink/test_discrete_gaussian.py",)
TEST_ROBUST = ("tests/reduce/test_robust.py",)
SECURE_SUM = ("tests/privacy/test_secure_sum.py::test_the_sum_is_exact_whoever_drops_out",)
COMPRESS = "fedvlr_jax/uplink/compress.py"
RING = "fedvlr_jax/uplink/ring.py"
DISCRETE_GAUSSIAN = "fedvlr_jax/uplink/discrete_gaussian.py"
SECURE_ROUNDS = "fedvlr_jax/privacy/secure_rounds.py"
SECRETS = "fedvlr_jax/privacy/secure_sum.py"
ROBUST = "fedvlr_jax/reduce/robust.py"
ATTACK = "fedvlr_jax/attacks/attack.py"
STATISTICS = "fedvlr_jax/attacks/statistics.py"
CLOCK = "fedvlr_jax/fleet/synchronous.py"
CLIENT_WORK = "fedvlr_jax/fleet/work.py"
BUFFERED = "fedvlr_jax/federated/buffered.py"


def attacks(test):
    return (f"tests/attacks/test_attacks.py::test_{test}",)


def clock(test):
    return (f"tests/fleet/test_participation.py::test_{test}",)


def secure(test):
    return (f"tests/privacy/test_secure_training.py::test_{test}",)


FLEET = [
    Mutation(
        "clients that begin after the last upload of a step download the old version",
        "fedvlr_jax/fleet/asynchronous.py",
        "waiting = len(counted) < rules.buffer",
        "waiting = True",
        BY_HAND,
    ),
    Mutation(
        "stale uploads count in full",
        BUFFERED,
        "return 1.0 / jnp.sqrt(1.0 + staleness.astype(jnp.float32))",
        "return 1.0 / jnp.sqrt(1.0 + 0.0 * staleness.astype(jnp.float32))",
        STALE,
    ),
    Mutation(
        "stale clients train on the newest version",
        BUFFERED,
        "version_number = server.round - staleness[number]",
        "version_number = server.round - 0 * staleness[number]",
        STALE,
    ),
    Mutation(
        "what was not sent is lost",
        COMPRESS,
        "views = views + residual",
        "views = views + 0 * residual",
        NOT_SENT,
    ),
    Mutation(
        "numbers are rounded to the nearest level",
        COMPRESS,
        "jax.random.uniform(key, views.shape, views.dtype)",
        "0.5",
        QUANTISED,
    ),
    Mutation(
        "staleness counts in full and not by its root",
        BUFFERED,
        "return 1.0 / jnp.sqrt(1.0 + staleness.astype(jnp.float32))",
        "return 1.0 / (1.0 + staleness.astype(jnp.float32))",
        STALE,
    ),
    Mutation(
        "clients that fell behind go on",
        "fedvlr_jax/fleet/asynchronous.py",
        "oldest = len(timeline.steps) + 1 - rules.max_staleness",
        "oldest = len(timeline.steps) - rules.max_staleness",
        ("tests/fleet/test_asynchronous.py::test_clients_that_fell_behind_are_stopped",),
    ),
    Mutation(
        "what was sent is kept",
        COMPRESS,
        "None if residual is None else views - out",
        "None if residual is None else out",
        NOT_SENT,
    ),
    Mutation(
        "the shortest rows are sent",
        COMPRESS,
        "jax.lax.top_k(length, count)",
        "jax.lax.top_k(-length, count)",
        ("tests/uplink/test_compress.py::test_the_longest_rows_by_hand",),
    ),
    Mutation(
        "quantised numbers lose their sign",
        COMPRESS,
        "jnp.sign(views) * jnp.minimum(whole, levels)",
        "jnp.minimum(whole, levels)",
        QUANTISED,
    ),
    Mutation(
        "one scale for all quantised rows",
        COMPRESS,
        "jnp.max(jnp.abs(views), axis=(1, 2), keepdims=True)",
        "jnp.max(jnp.abs(views), keepdims=True)",
        QUANTISED,
    ),
    Mutation(
        "the shared basis is not orthonormal",
        COMPRESS,
        "jnp.linalg.qr(jax.random.normal(key, (size, rank)))[0]",
        "jax.random.normal(key, (size, rank))",
        (
            "tests/uplink/test_compress.py::test_the_sum_of_what_clients_send_is_what_the_server_makes_of_the_sum",
        ),
    ),
    Mutation(
        "a round ends at its first upload",
        CLOCK,
        "end = float(finish[first].max())",
        "end = float(finish[first].min())",
        clock("over_selection_by_hand"),
    ),
    Mutation(
        "clients report after their session",
        CLOCK,
        "done = (finish <= until) & (finish <= deadline)",
        "done = finish <= deadline",
        clock("a_deadline_by_hand"),
    ),
    Mutation(
        "no pause between rounds",
        CLOCK,
        "known[number - 1][0] + self._rules.pause_s if",
        "known[number - 1][0] if",
        clock("a_pause_stands_between_rounds"),
    ),
    Mutation(
        "uploads go at the speed of downloads",
        CLIENT_WORK,
        "work.bytes_up[clients] / up",
        "work.bytes_up[clients] / down",
        clock("a_duration_by_hand"),
    ),
    Mutation(
        "fast clients are slow",
        "fedvlr_jax/fleet/hardware.py",
        "SPEED_LOG_MEAN - SPEED_LOG_SIGMA * score",
        "SPEED_LOG_MEAN + SPEED_LOG_SIGMA * score",
        clock("seconds_of_a_row_by_the_published_law"),
    ),
]

SECURE_ROUNDS = [
    Mutation(
        "numbers in the ring are rounded to the nearest level",
        RING,
        "jnp.trunc(scaled)",
        "jnp.round(scaled)",
        TEST_RING,
    ),
    Mutation(
        "numbers beyond the bound are not clamped",
        RING,
        "jnp.clip(values * (ring.levels / ring.bound), -ring.levels, ring.levels)",
        "values * (ring.levels / ring.bound)",
        TEST_RING,
    ),
    Mutation(
        "absent clients are read",
        RING,
        "counts = alpha != 0",
        "counts = alpha == alpha",
        secure("an_absent_client_is_not_read"),
    ),
    Mutation(
        "the secure mean is over the cohort",
        "fedvlr_jax/reduce/secure.py",
        "count = jnp.maximum(jnp.sum(responded), 1)",
        "count = jnp.asarray(responded.shape[0])",
        ("tests/reduce/test_secure.py",),
    ),
    Mutation(
        "masks of a pair do not cancel",
        SECRETS,
        "sent = sent + pair if v > u else sent - pair",
        "sent = sent + pair",
        SECURE_SUM,
    ),
    Mutation(
        "masks of a client that dropped out stay",
        SECRETS,
        "total = total - left if u > v else total + left",
        "total = total - left",
        SECURE_SUM,
    ),
    Mutation(
        "the sum of a full cohort leaves the ring",
        SECURE_ROUNDS,
        "room = (2**31 - 1) /",
        "room = (2**33 - 1) /",
        secure("the_noise_of_the_clients_that_are_counted_on_is_central_noise")
        + secure("an_overflow_is_refused_by_name"),
    ),
    Mutation(
        "each client adds the noise of all",
        SECURE_ROUNDS,
        "privacy.noise_multiplier * privacy.clip_norm / bound / math.sqrt(cohort.shares)",
        "privacy.noise_multiplier * privacy.clip_norm / bound",
        secure("the_noise_of_the_clients_that_are_counted_on_is_central_noise"),
    ),
    Mutation(
        "all clients count as honest",
        SECURE_ROUNDS,
        "math.floor(config.privacy.honest_share * least + 1e-6)",
        "least",
        secure("the_noise_of_the_clients_that_are_counted_on_is_central_noise"),
    ),
    Mutation(
        "all clients draw the same noise",
        RING,
        "jax.random.split(jax.random.fold_in(key, client), len(leaves))",
        "jax.random.split(key, len(leaves))",
        TEST_RING,
    ),
    Mutation(
        "absent clients add noise",
        RING,
        "return jax.lax.cond(counted, noisy, lambda: total), None",
        "return noisy(), None",
        TEST_RING,
    ),
    Mutation(
        "discrete noise of half the deviation",
        DISCRETE_GAUSSIAN,
        "np.exp(-0.5 * np.square(value / deviation))",
        "np.exp(-2 * np.square(value / deviation))",
        TEST_GAUSSIAN,
    ),
    Mutation(
        "discrete noise is one level to the right",
        DISCRETE_GAUSSIAN,
        "return place - np.int32(len(table.accept) // 2)",
        "return place - np.int32(len(table.accept) // 2 - 1)",
        TEST_GAUSSIAN,
    ),
]

ATTACKS_AND_DEFENCES = [
    Mutation(
        "honest clients are hostile",
        ATTACK,
        "return responded & (client >= self.first)",
        "return responded",
        attacks("honest_uploads_keep_their_values"),
    ),
    Mutation(
        "forged uploads ignore their strength",
        ATTACK,
        "strength * seen.own_norm()",
        "seen.own_norm()",
        attacks("forged_uploads_are_as_long_as_trained_ones"),
    ),
    Mutation(
        "the mean of the hostile clients is over the cohort",
        ATTACK,
        "weight / jnp.maximum(jnp.sum(weight), 1.0)",
        "weight / weight.shape[0]",
        attacks("moments_of_the_hostile_clients_own_training"),
    ),
    Mutation(
        "a little is enough the other way",
        STATISTICS,
        "m - z * d",
        "m + z * d",
        attacks("moments_of_the_hostile_clients_own_training"),
    ),
    Mutation(
        "inner product manipulation follows the mean",
        STATISTICS,
        "-strength * m, seen",
        "strength * m, seen",
        attacks("moments_of_the_hostile_clients_own_training"),
    ),
    Mutation(
        "uploads that are not finite are kept",
        ROBUST,
        "kept = responded & jnp.isfinite(uploads.norms())",
        "kept = responded",
        TEST_ROBUST,
    ),
    Mutation(
        "the server clips to the largest norm",
        ROBUST,
        "bound = order.median(norms[:, None], responded[:, None])",
        "bound = jnp.max(norms)",
        TEST_ROBUST,
    ),
    Mutation(
        "Bulyan averages all selected values",
        ROBUST,
        "nearest = jnp.maximum(count - 2 * byzantine, 1)",
        "nearest = count",
        TEST_ROBUST,
    ),
    Mutation(
        "two clients decide a row",
        ROBUST,
        "floor = jnp.maximum(2 * share_of(byzantine_share, num_responded) + 1, 3)",
        "floor = 2",
        TEST_ROBUST,
    ),
]

EVALUATION = [
    Mutation(
        "ranking without the personal rows",
        SCORING,
        'result += jnp.einsum("kid,kd->ki", private["items"], vector)',
        'result += 0 * jnp.einsum("kid,kd->ki", private["items"], vector)',
        agreement(backbone="pfedrec"),
    ),
    Mutation(
        "ranking sums the history in place of averaging",
        SCORING,
        "pooled = (positive @ flat_views) / length",
        "pooled = positive @ flat_views",
        agreement(fusion="bilevel"),
    ),
    Mutation(
        "recommends what the user has",
        SCORING,
        "jax.lax.top_k(jnp.where(_hide(seen, mask), -jnp.inf, score), k)",
        "jax.lax.top_k(score, k)",
        agreement(fusion="bilevel"),
    ),
    Mutation(
        "strict does not mask the validation items",
        "fedvlr_jax/simulation/evaluation.py",
        'mask_test = valid if self.config.evaluation.mask == "train+valid" else none',
        "mask_test = none",
        agreement(protocol="strict"),
    ),
    Mutation(
        "paper masks the validation items",
        "fedvlr_jax/simulation/evaluation.py",
        'mask_test = valid if self.config.evaluation.mask == "train+valid" else none',
        "mask_test = valid",
        agreement(protocol="paper"),
    ),
    Mutation(
        "ties count as ahead",
        RANKING,
        "(scores > own).astype(jnp.int32)",
        "(scores >= own).astype(jnp.int32)",
        TEST_RANKING,
    ),
    Mutation(
        "a target is tied with itself",
        RANKING,
        "jnp.where(real, tied - itself, 0)",
        "jnp.where(real, tied, 0)",
        TEST_RANKING,
    ),
    Mutation(
        "ties take the best of their ranks",
        METRICS,
        "hit = (high - low) / size",
        "hit = np.minimum(high - low, 1)",
        TEST_METRICS,
    ),
    Mutation(
        "the ideal list is always full",
        METRICS,
        "ideal[np.minimum(total, k)]",
        "ideal[np.full_like(total, k)]",
        TEST_METRICS,
    ),
    Mutation(
        "natural logarithm for one target",
        METRICS,
        "gain = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + rank))])",
        "gain = np.concatenate([[0.0], np.cumsum(1 / np.log(1 + rank))])",
        TEST_METRICS,
    ),
    Mutation(
        "natural logarithm for several targets",
        METRICS,
        "np.sum(1 / np.log2(1 + rank), axis=1)",
        "np.sum(1 / np.log(1 + rank), axis=1)",
        TEST_METRICS,
    ),
    Mutation(
        "MAP over all targets",
        METRICS,
        '"map": per_user(share * precision) / np.minimum(total, k)',
        '"map": per_user(share * precision) / total',
        TEST_METRICS,
    ),
    Mutation(
        "MAP forgets the targets above in the same tie",
        METRICS,
        "np.sum((groups.above[:, None] + 1 + others) / rank, axis=1)",
        "np.sum((groups.above[:, None] + 1) / rank, axis=1)",
        TEST_METRICS,
    ),
    Mutation(
        "HR is recall",
        METRICS,
        '"hr": 1.0 - np.maximum(0.0, 1.0 - per_user(np.where(leading, chance, 0.0))),',
        '"hr": hits / total,',
        TEST_METRICS,
    ),
    Mutation(
        "precision over the list's targets",
        METRICS,
        '"precision": hits / k,',
        '"precision": hits / np.minimum(total, k),',
        TEST_METRICS,
    ),
    Mutation(
        "cold targets are warm",
        METRICS,
        "warm = train.item_counts[held_out.item] > 0",
        "warm = train.item_counts[held_out.item] >= 0",
        TEST_METRICS,
    ),
    Mutation(
        "the best decile",
        METRICS,
        'np.argsort(ndcg[evaluated], kind="stable")',
        'np.argsort(-ndcg[evaluated], kind="stable")',
        TEST_METRICS,
    ),
    Mutation(
        "the worst round is selected",
        TRAINING,
        "highest is None or value > highest",
        "highest is None or value < highest",
        training("the_earliest_round_with_the_best_validation_ndcg_is_selected"),
    ),
    Mutation(
        "selection on HR",
        "fedvlr_jax/selection.py",
        'return Selection("auto", "ndcg", HEADLINE)',
        'return Selection("auto", "hr", HEADLINE)',
        training("the_earliest_round_with_the_best_validation_ndcg_is_selected"),
    ),
    Mutation(
        "selection on the test part",
        TRAINING,
        'ranks = simulation.evaluate(run.state, "valid")',
        'ranks = simulation.evaluate(run.state, "test")',
        training("the_initial_state_is_a_candidate"),
    ),
    Mutation(
        "patience is one evaluation longer",
        SCHEDULE,
        "_since_best(evaluations)[-1] >= patience",
        "_since_best(evaluations)[-1] > patience",
        training("patience_counts_evaluations_since_the_best"),
    ),
]

TEST_SASREC = ("tests/centralized/test_sasrec.py",)
DATA_AND_BASELINES = [
    Mutation(
        "a sequence sees the items after its place",
        CENTRALIZED + "sasrec.py",
        "earlier &= rows.age[:, :, None] < rows.age[:, None]",
        "earlier &= rows.age[:, :, None] != rows.age[:, None]",
        TEST_SASREC,
    ),
    Mutation(
        "users that share a row see each other",
        CENTRALIZED + "sasrec.py",
        "(rows.user[:, :, None] == rows.user[:, None])",
        "(rows.user[:, :, None] >= rows.user[:, None])",
        TEST_SASREC,
    ),
    Mutation(
        "every epoch trains on the newest window",
        CENTRALIZED + "windows.py",
        "end=histories.end - drawn",
        "end=histories.end",
        TEST_SASREC,
    ),
    Mutation(
        "validation after test",
        SPLITS,
        "part[ends - 2] = VALID\n    part[ends - 1] = TEST",
        "part[ends - 1] = VALID\n    part[ends - 2] = TEST",
        TEST_SPLITS,
    ),
    Mutation(
        "equal times in reverse order",
        SPLITS,
        "order = np.lexsort((np.arange(len(user)), time, user))",
        "order = np.lexsort((-np.arange(len(user)), time, user))",
        TEST_SPLITS,
    ),
    Mutation(
        "the global cut parts equal times",
        SPLITS,
        "(time >= valid_from).astype(np.int8) + (time >= test_from)",
        "(time > valid_from).astype(np.int8) + (time >= test_from)",
        TEST_SPLITS,
    ),
    Mutation(
        "a test item may be a validation item",
        SPLITS,
        "pair[part < held_out]",
        "pair[part == TRAIN]",
        TEST_SPLITS,
    ),
    Mutation(
        "a repeated pair keeps its last time",
        SPLITS,
        "np.lexsort((place, time, pair))",
        "np.lexsort((place, -time, pair))",
        TEST_SPLITS,
    ),
    Mutation(
        "EASE without its diagonal",
        BASELINES + "linear.py",
        "history @ inverse / diagonal",
        "history @ inverse",
        baselines("ease_is_the_ridge_regression_of_each_item_on_the_others"),
    ),
    Mutation(
        "EASE of few users without its diagonal",
        BASELINES + "linear.py",
        "diagonal = (1 - (rows * product).sum(axis=0)) / l2",
        "diagonal = np.full(rows.shape[1], 1 / l2)",
        baselines("ease_is_the_ridge_regression_of_each_item_on_the_others"),
    ),
    Mutation(
        "item-kNN divides by counts in place of their roots",
        BASELINES + "neighbours.py",
        "def fit(*, own: float = 0.5, other: float = 0.5)",
        "def fit(*, own: float = 1.0, other: float = 1.0)",
        baselines("item_knn_by_hand"),
    ),
    Mutation(
        "content-kNN without unit rows",
        BASELINES + "neighbours.py",
        "plain = np.concatenate([centred_unit_rows(rows) for rows in features], axis=1)",
        "plain = np.concatenate([rows.astype(float) for rows in features], axis=1)",
        baselines("content_knn_against_a_literal_loop"),
    ),
    Mutation(
        "baselines are validated with the validation items masked",
        BASELINES + "evaluating.py",
        'if part == "test" and mask == "train+valid":',
        'if mask == "train+valid":',
        baselines("the_mask_of_validation_and_of_test"),
    ),
    Mutation(
        "baselines take their worst setting",
        BASELINES + "evaluating.py",
        "for best in values.argmax(axis=0)",
        "for best in values.argmin(axis=0)",
        baselines("the_setting_of_a_baseline_is_the_best_on_validation"),
    ),
    Mutation(
        "iALS weighs the entries of a history by alpha alone",
        "fedvlr_jax/least_squares.py",
        'np.einsum("rp,rpd->rd", 1 + alpha * weight, gathered)',
        'np.einsum("rp,rpd->rd", alpha * weight, gathered)',
        baselines("least_squares_against_a_dense_solve"),
    ),
    Mutation(
        "the closed form adds the scores of iALS with another scale",
        "fedvlr_jax/federated/ials.py",
        "scales = np.divide(sizes, self.deviations)",
        "scales = np.divide(sizes, self.deviations[::-1])",
        ials("the_blend_is_the_mean_of_standardized_scores[0.0-3-30.0]"),
    ),
    Mutation(
        "every sweep of iALS begins with the initial items",
        "fedvlr_jax/federated/ials.py",
        "items = client_vectors(by_item, client_vectors(histories, items, l2), l2)",
        "items = client_vectors(by_item, client_vectors(histories, initial, l2), l2)",
        ials("the_items_are_those_of_literal_clients[30.0]"),
    ),
    Mutation(
        "all settings of iALS have the l2 of the first",
        "fedvlr_jax/federated/ease_settings.py",
        "item_vectors(history, first.truncated(columns).balanced, setting.l2)",
        "item_vectors(history, first.truncated(columns).balanced, SETTINGS[0].l2)",
        ials("the_blend_is_the_mean_of_standardized_scores[0.5-6-100.0]"),
    ),
    Mutation(
        "validation takes iALS if it is ahead at all",
        "fedvlr_jax/federated/ease_settings.py",
        "IALS_SURE = 0.5",
        "IALS_SURE = 0.0",
        ials("validation_takes_the_blend_if_it_is_half_an_error_ahead[0.4-False]"),
    ),
    Mutation(
        "the step to the next item forgets no item",
        TRANSITIONS,
        "DECAY**run.length * state + ",
        "state + ",
        transitions("the_scores_are_those_of_literal_clients"),
    ),
    Mutation(
        "the step learns from a state that holds the item it predicts",
        TRANSITIONS,
        "following += state.T @ sums",
        "following += (state + sums).T @ sums",
        transitions("the_scores_are_those_of_literal_clients"),
    ),
    Mutation(
        "the step counts a state once for all items that follow it",
        TRANSITIONS,
        "before += (state * run.length).T @ state",
        "before += state.T @ state",
        transitions("the_scores_are_those_of_literal_clients"),
    ),
    Mutation(
        "the step leads backwards",
        TRANSITIONS,
        "np.linalg.solve(before + ridge, following)",
        "np.linalg.solve(before + ridge, following.T)",
        transitions("the_scores_are_those_of_literal_clients"),
    ),
    Mutation(
        "the step has hardly a ridge",
        TRANSITIONS,
        "np.linalg.solve(before + ridge, following)",
        "np.linalg.solve(before + 1e-6 * ridge, following)",
        transitions("the_scores_are_those_of_literal_clients"),
    ),
    Mutation(
        "the step scales the table by items, not by interactions",
        TRANSITIONS,
        "rows.T @ (rows * counts[:, None])",
        "rows.T @ rows",
        transitions("the_scores_are_those_of_literal_clients"),
    ),
    Mutation(
        "the step keeps directions that the table lacks",
        TRANSITIONS,
        "LEAST_VARIANCE * variances.max(initial=0.0)",
        "1e-300",
        transitions("the_scores_are_those_of_literal_clients"),
    ),
    Mutation(
        "the scores of the next items keep their own scale",
        TRANSITIONS,
        "    vectors /= score_deviation(vectors, items)\n",
        "",
        transitions("the_scores_are_those_of_literal_clients"),
    ),
    Mutation(
        "a client sends one triangle of the transitions",
        TRANSITIONS,
        "width * (width + 1) // 2 + width * width",
        "width * (width + 1)",
        transitions("what_a_client_sends"),
    ),
    Mutation(
        "the weight of the next items ignores the scale of the other scores",
        "fedvlr_jax/federated/ease_settings.py",
        "    following *= score_deviation(vectors, items)\n",
        "",
        transitions("the_weight_is_relative_to_the_other_scores"),
    ),
    Mutation(
        "validation compares the next items with one weight",
        "fedvlr_jax/federated/ease_settings.py",
        "mine + weight * theirs",
        "mine + bool(weight) * theirs",
        transitions("validation_takes_a_weight_half_an_error_ahead"),
    ),
    Mutation(
        "the next items have the largest weight that was tried",
        "fedvlr_jax/federated/ease_settings.py",
        "following *= weights[best]",
        "following *= weights[-1]",
        transitions("validation_takes_a_weight_half_an_error_ahead"),
    ),
    Mutation(
        "validation takes the next items if they are ahead at all",
        "fedvlr_jax/federated/ease_settings.py",
        "TRANSITIONS_SURE = 0.5",
        "TRANSITIONS_SURE = 0.0",
        transitions("validation_takes_a_weight_half_an_error_ahead[0.4-0.0]"),
    ),
    Mutation(
        "the server sends one matrix of the step",
        "fedvlr_jax/federated/exchanges.py",
        "down += 2 * columns**2",
        "down += columns**2",
        transitions("what_is_exchanged"),
    ),
    Mutation(
        "the step is taken under privacy without noise",
        START,
        '"init_transitions": "the sums over successive items have no noise",',
        "",
        ("tests/privacy/test_calibration.py",),
    ),
    Mutation(
        "runs of a history ignore its times",
        "fedvlr_jax/data/runs.py",
        "starts[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])",
        "starts[1:] = user[1:] != user[:-1]",
        transitions("the_runs_of_all_users_from_the_oldest"),
    ),
    Mutation(
        "items of equal time follow each other",
        BASELINES + "linear.py",
        "(apart > 0)",
        "(apart >= 0)",
        baselines("transitions_against_literal_users"),
    ),
    Mutation(
        "linear transitions lead backwards",
        BASELINES + "linear.py",
        "(item[pair], item[pair + lag])",
        "(item[pair + lag], item[pair])",
        baselines("transitions_against_literal_users"),
    ),
    Mutation(
        "linear transitions score a history without its order",
        BASELINES + "evaluating.py",
        'recent=recent, decay=setting.get("decay"))',
        "recent=recent)",
        baselines("the_setting_of_a_baseline_is_the_best_on_validation"),
    ),
    Mutation(
        "a client's contribution to the private Gram matrix has no bound",
        PRIVATE_EASE,
        "rows = (histories * (1 / lengths)[:, None]).tocsr()",
        "rows = histories.tocsr()",
        private_ease("one_client_moves_the_sum_by_one"),
    ),
    Mutation(
        "the noise of the private Gram matrix is not symmetric",
        PRIVATE_EASE,
        "        gram[item + 1 :, item] = gram[item, item + 1 :]\n",
        "",
        private_ease("noise_is_symmetric_and_independent_with_the_stated_deviations"),
    ),
    Mutation(
        "pairs of the private Gram matrix have half of their noise",
        PRIVATE_EASE,
        "noise[1:] / np.sqrt(2)",
        "noise[1:] / np.sqrt(8)",
        private_ease("noise_is_symmetric_and_independent_with_the_stated_deviations"),
    ),
    Mutation(
        "the release of --init=ease is not in the ledger",
        "fedvlr_jax/privacy/release.py",
        'if config.init.init not in ("spectral", "ease"):',
        'if config.init.init != "spectral":',
        (f"{PRIVATE_RUNS}::test_the_exchanges_of_a_start_are_spent_once_and_before_the_rounds",),
    ),
    Mutation(
        "RP3beta penalises no popular item",
        BASELINES + "neighbours.py",
        "to_items = (to_items * _inverse_power(counts, beta)[None, :]).tocsr()",
        "to_items = to_items.tocsr()",
        baselines("rp3beta_against_a_literal_walk"),
    ),
    Mutation(
        "the interval is of the users and not of their mean",
        "fedvlr_jax/evaluation/significance.py",
        "generator.integers(0, len(values), (count, len(values)))",
        "generator.integers(0, len(values), (count, 1))",
        ("tests/evaluation/test_significance.py",),
    ),
]

STARTS_AND_STATES = [
    Mutation(
        "spectral start without the items' power",
        START,
        "items = directions / item_weight[:, None] * kept",
        "items = directions * kept",
        TEST_START,
    ),
    Mutation(
        "spectral start without shrinkage",
        START,
        "squares / (squares + shrinkage * np.mean(squares) + 1e-12 * squares[0])",
        "squares / (squares + 1e-12 * squares[0])",
        TEST_START,
    ),
    Mutation(
        "spectral start takes the smallest directions",
        "fedvlr_jax/federated/subspace.py",
        "directions = (basis @ turn)[:, ::-1][:, :width]",
        "directions = (basis @ turn)[:, :width]",
        TEST_START,
    ),
    Mutation(
        "preferences without the background",
        "fedvlr_jax/federated/preferences.py",
        "BACKGROUND + (1 - BACKGROUND) * mean_kernel, 1.0",
        "mean_kernel, 1.0",
        ("tests/federated/test_preferences.py::test_preferences_against_a_literal_loop",),
    ),
    Mutation(
        "a checkpoint's blocks overlap",
        f"{CHECKPOINTS}layout.py",
        "min(start + rows, shape[0])) for start in starts",
        "min(start + rows + 1, shape[0])) for start in starts",
        BLOCKS,
    ),
    Mutation(
        "rows of a block from its first one on",
        f"{CHECKPOINTS}reading.py",
        "values[here] = self._held[1][asked[here] - block.start]",
        "values[here] = self._held[1][asked[here] % len(self._held[1])]",
        BLOCKS,
    ),
    Mutation(
        "the worst checkpoint is kept as the best",
        f"{CHECKPOINTS}checkpoints.py",
        "best = sorted(older, key=self._score)[max(0, len(older) - self._keep_best) :]",
        "best = sorted(older, key=self._score)[: self._keep_best]",
        ("tests/test_checkpointing.py::test_the_newest_and_the_best_are_kept",),
    ),
    Mutation(
        "a discarded round is committed later",
        STORE,
        "self._staged.clear()",
        "pass",
        STORES,
    ),
    Mutation(
        "files are written where the rows lie that count",
        STORE,
        "place = clients + (1 - self._slot[clients]) * self.num_clients",
        "place = clients + self._slot[clients] * self.num_clients",
        STORES,
    ),
    Mutation(
        "rows of one client go to another",
        STORE,
        "rows[known] = table.read(place)",
        "rows[known] = table.read(place[::-1])",
        STORES,
    ),
    Mutation(
        "members of an ensemble share the first one's rates",
        "fedvlr_jax/training/ensemble.py",
        "jnp.asarray(x, jnp.float32), *rates)",
        "jnp.asarray(x[:1] * len(x), jnp.float32), *rates)",
        ("tests/training/test_ensemble.py::test_each_member_has_its_own_rates",),
    ),
    Mutation(
        "the norm of an upload that an attack flips is negative",
        UPLOADS,
        "jnp.abs(self.scale) * jnp.sqrt",
        "self.scale * jnp.sqrt",
        TEST_ROBUST,
    ),
    Mutation(
        "hostile clients are drawn from the stream of a cohort",
        "fedvlr_jax/settings.py",
        "np.random.SeedSequence(seed, spawn_key=purpose)",
        "np.random.SeedSequence((seed, *purpose))",
        ("tests/attacks/test_federation.py::test_no_draw_is_that_of_a_cohort",),
    ),
    Mutation(
        "over-selection in floats",
        "fedvlr_jax/fleet/synchronous.py",
        "self.cohort * Fraction(str(self.over_selection))",
        "self.cohort * self.over_selection",
        ("tests/fleet/test_participation.py::test_over_selection_is_exact_and_rounded_up",),
    ),
    Mutation(
        "groups: clients of fewer local epochs are nearer the broadcast",
        "fedvlr_jax/federated/groups.py",
        "even = with_equal_epochs(task, upload, local_epochs)",
        "even = upload",
        ("tests/federated/test_groups.py",),
    ),
    Mutation(
        "epsilon of a truncated sample below its fixed point",
        "fedvlr_jax/privacy/accounting.py",
        "    # Below the fixed point nothing is a bound.\n    return None",
        "    return value",
        ("tests/privacy/test_accounting.py",),
    ),
]

MUTATIONS = [
    *VIEWS_AND_ROUTING,
    *BACKBONES,
    *LOSSES,
    *LOCAL_EPOCHS,
    *SERVER,
    *AGGREGATORS,
    *PARTICIPANTS,
    *FLEET,
    *SECURE_ROUNDS,
    *ATTACKS_AND_DEFENCES,
    *EVALUATION,
    *DATA_AND_BASELINES,
    *STARTS_AND_STATES,
]
