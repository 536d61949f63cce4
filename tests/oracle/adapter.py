"""Small federations of the package, and their conversion to the format of `reference`.

The tests call only public functions: `make_simulation`, `run_rounds`, `evaluate`, `recommend`. The
reference gets its random draws from the package: the clients that respond, their numbers of local
epochs, the sampled negatives, the noise in units of its deviation, and the draws of rounding.
"""

import dataclasses
import re

import jax
import numpy as np

from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import draw_negatives
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.federated.participation import make_cohorts
from fedvlr_jax.federated.plans.steps import client_keys
from fedvlr_jax.federated.server_optimizer import server_optimizer
from fedvlr_jax.federated.streams import LOCAL, NOISE, RING_NOISE, stream
from fedvlr_jax.privacy.secure_rounds import ring_of
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.buckets import in_user_order
from fedvlr_jax.uplink import Upload
from fedvlr_jax.uplink.compress import BASIS, ROUNDING, shared_basis
from fedvlr_jax.uplink.noise import add_gaussian
from fedvlr_jax.uplink.ring import client_draws
from tests.oracle import reference
from tests.oracle.federations import flags_of, views_of

WIDTHS = {"image": 3, "text": 5}


@dataclasses.dataclass(frozen=True)
class Federation:
    """A simulation and, for the reference, its options and data."""

    simulation: object
    options: reference.Options
    features: dict
    clients: tuple  # fields of reference.Client, without the draws of a round
    rng: np.random.Generator


def make_data(rng, choices):
    """7 users, 10 items; time stamps with ties; two held-out items for every other user.

    All federations have the same shapes, so each operation is compiled once.
    """
    num_users, num_items, longest = 7, 10, 4
    pairs = {"train": ([], []), "valid": ([], []), "test": ([], [])}
    # The last two items are not in train: they are cold, and under "paper" they are not negatives.
    warm = num_items - 2
    for user in range(num_users):
        items = rng.permutation(warm)
        length = longest if user == 0 else int(rng.integers(1, longest + 1))
        for item in items[:length]:
            pairs["train"][0].append(user), pairs["train"][1].append(item)
        pairs["valid"][0].append(user), pairs["valid"][1].append(items[length])
        for item in (warm + user % 2, *items[length + 1 : length + 1 + user % 2]):
            pairs["test"][0].append(user), pairs["test"][1].append(item)
    parts = {
        name: Interactions.from_pairs(
            user=np.array(users),
            item=np.array(items),
            time=rng.integers(0, 4, len(users)),
            num_users=num_users,
            num_items=num_items,
        )
        for name, (users, items) in pairs.items()
    }
    if choices["recency"]:
        parts["train"] = parts["train"].weighted_by_recency(choices["recency"])
    return Dataset(
        name="small",
        **parts,
        features={m: rng.normal(size=(num_items, WIDTHS[m])) for m in choices["modalities"]},
        user_ids=np.arange(num_users).astype(str),
        item_ids=np.arange(num_items).astype(str),
        split="predefined",
    )


def make_config(rng, choices):
    values = {name: value for name, value in flags_of(choices).items() if name != "modalities"}
    if choices["fusion"] == "bilevel":
        values["views"] = ",".join(views_of(choices))
    rates = ("client_lr", "router_lr", "item_lr", "delta_lr")
    values |= {name: float(rng.uniform(0.2, 0.9)) for name in rates}
    return Config.from_flat(
        **values,
        width=4,
        router_hidden=3,
        fedrap_repulsion=0.3,
        fedrap_l1=0.2,
        server_lr_items=0.05,
        server_lr_fusion=0.03,
        server_lr_head=0.04,
        eval_every=1,
        devices=1,
    )


def make_federation(number, choices):
    rng = np.random.default_rng([11, number])
    data = make_data(rng, choices)
    config = make_config(rng, choices)
    simulation = make_simulation(config, data)
    flat = config.flat
    known = {field.name for field in dataclasses.fields(reference.Options)}
    options = reference.Options(
        **{name: value for name, value in flat.items() if name in known}
        | {"views": tuple(flat["views"].split(",")), "num_clients": data.num_users}
    )
    in_train = np.unique(data.train.item)
    pool = in_train if choices["protocol"] == "paper" else np.arange(data.num_items)
    train = data.train
    clients = tuple(
        reference.Client(
            history=train.of(user),
            time=train.time[train.indptr[user] : train.indptr[user + 1]],
            pool=pool,
            epochs=0,
        )
        for user in range(data.num_users)
    )
    features = {name: np.asarray(value) for name, value in data.features.items()}
    return Federation(simulation, options, features, clients, rng)


def random_state(federation):
    """A state of the package with random parameters, none near zero, and a random round."""
    simulation, rng = federation.simulation, federation.rng
    config = simulation.config.federation
    # From the shapes alone: compiling the initialisers would take longer than the test.
    shapes = jax.eval_shape(simulation.init)
    drawn = lambda tree: jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape), tree)
    shared = drawn(shapes.server.shared)
    private = drawn(shapes.private)
    for rows in private:
        # About as long as an upload.
        rows |= {"residual": rows["residual"] / 10} if "residual" in rows else {}
    optimizer = server_optimizer(config.server_optimizer, config.rates)
    server = shapes.server._replace(
        round=np.int32(rng.integers(1, 9)),
        key=jax.random.key(int(rng.integers(1000))),
        shared=shared,
        optimizer=jax.device_get(jax.jit(optimizer.init)(shared)),
        uplink=simulation.task.aggregator.uplink.init(),
    )
    return jax.device_put(shapes._replace(server=server, private=private))


def given_to(federation, server):
    """The reference's clients in one round, with their responses, local epochs and negatives."""
    simulation = federation.simulation
    config, pool = simulation.config.federation, simulation.task.pool
    seed = int(np.asarray(jax.random.key_data(server.key))[-1])
    sampled = [np.zeros(h.count.shape, bool) for h in simulation.on_device.histories]
    for rows, flags in zip(
        simulation.sampling.sampled_rows(seed, int(server.round)), sampled, strict=True
    ):
        flags[rows] = True
    cohorts = make_cohorts(
        server, simulation.on_device.histories, sampled, simulation.model.backbone.weight, config
    )
    local = stream(server.key, LOCAL, server.round)
    clients = list(federation.clients)
    for users, cohort in zip(simulation.buckets, cohorts, strict=True):
        histories = cohort.histories
        drawn = None
        if config.negatives == "sampled":
            keys = client_keys(local, histories.client, config.local_epochs)
            of_client = lambda k, item, count: jax.vmap(
                lambda key: draw_negatives(key, item, count, pool, config.num_negatives)
            )(k)
            drawn = np.asarray(jax.jit(jax.vmap(of_client))(keys, histories.item, histories.count))
        for row, user in enumerate(users):
            epochs = int(cohort.local_epochs[row]) if cohort.responded[row] else 0
            negatives = () if drawn is None else tuple(drawn[row])
            clients[user] = dataclasses.replace(
                clients[user],
                epochs=epochs,
                negatives=tuple(n[n < simulation.dataset.num_items] for n in negatives),
                uniform=rounding_draws(simulation, local, user),
                levels=ring_draws(simulation, server, local, user),
            )
            check_negatives(clients[user], config)
    return clients


def upload_like(simulation, server):
    """Zeros in the shapes of an upload."""
    model = simulation.model
    shape = model.num_items, len(model.fusion.names), model.width
    head = jax.tree.map(np.zeros_like, jax.device_get(server.shared["head"]))
    return Upload(np.zeros(shape), head)


def rounding_draws(simulation, local, user):
    """For --upload_bits: a draw from [0, 1) for each number of the client's views."""
    if not simulation.config.fleet.upload_bits:
        return None
    model = simulation.model
    shape = model.num_items, len(model.fusion.names), model.width
    key = jax.random.fold_in(jax.random.fold_in(local, user), ROUNDING)
    return np.asarray(jax.random.uniform(key, shape, np.float64))


def ring_draws(simulation, server, local, user):
    """For --privacy=distributed: the client's discrete noise, {name of the reference: levels}."""
    config = simulation.config
    if config.privacy.privacy != "distributed":
        return {}
    ring = ring_of(config, simulation.dataset.num_users)
    key = jax.random.fold_in(local, RING_NOISE)
    like = upload_like(simulation, server)
    return upload_names(client_draws(ring.deviation, key, user, like))


def draws_of(federation, server):
    """The server's draws of the round, for the reference."""
    simulation = federation.simulation
    config, model = simulation.config, simulation.model
    key, like = stream(server.key, NOISE, server.round), upload_like(simulation, server)
    draws = reference.Draws()
    if config.privacy.noise_multiplier:
        normal = add_gaussian(key, like, np.float64(1.0))
        draws = dataclasses.replace(draws, normal=upload_names(normal))
    if config.fleet.upload_rank:
        size = len(model.fusion.names) * model.width
        basis = shared_basis(jax.random.fold_in(key, BASIS), size, config.fleet.upload_rank)
        draws = dataclasses.replace(draws, basis=np.asarray(basis))
    return draws


def check_negatives(client, config):
    """Checks sampled negatives: num_negatives for each positive, from the pool, not the history."""
    free = np.setdiff1d(client.pool, client.history)
    for drawn in client.negatives:
        assert len(drawn) == (config.num_negatives * len(client.history) if len(free) else 0)
        assert np.isin(drawn, free).all()


# --- Names ----------------------------------------------------------------------------------------

SHARED_NAMES = (
    (r"^items$", "table"),
    (r"^fusion/(map|norm)_(\w+)/", r"\1/\2/"),
    (r"^fusion/projection/", "projection/"),
    (r"^fusion/gate/gate_", "gate/"),
    (r"^fusion/gate/Dense_0", "gate/out"),
    # Flax numbers layers in the order of their construction, the outer one first.
    (r"^fusion/mlp/Dense_1", "mlp/1"),
    (r"^fusion/mlp/Dense_0", "mlp/2"),
    (r"^fusion/(\w+)/LayerNorm_0", r"\1/norm"),
    (r"^fusion/(\w+)/", r"\1/"),
    (r"^head/vector", "head/weight"),
    (r"^head/hidden_0", "head/mlp/1"),
    (r"^head/hidden_1", "head/mlp/2"),
)
PRIVATE_NAMES = (
    (r"^items$", "rows"),
    (r"^router/first", "router/1"),
    (r"^router/last", "router/2"),
    (r"^head/gmf", "user_gmf"),
    (r"^head/mlp", "user_mlp"),
    (r"^head/vector", "weight"),
    (r"^head/bias", "bias"),
)


def flat_names(tree, names):
    result = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, replacement in names:
            name, found = re.subn(pattern, replacement, name)
            if found:
                break
        result[name] = np.asarray(leaf, np.float64)
    return result


def shared_of(server):
    """The server's parameters with the names of the reference.

    The reference has one matrix for each of FedNCF's layers over [user; item] and [GMF; MLP]; the
    package has two."""
    return joined_halves(flat_names(server.shared, SHARED_NAMES))


def upload_names(upload):
    """An `Upload` of the package as the reference's flat dict."""
    head = joined_halves(flat_names({"head": upload.head}, SHARED_NAMES))
    return {"views": np.asarray(upload.views)} | head


def joined_halves(shared):
    """FedNCF's layers over [user; item] and over [GMF; MLP], each as one matrix."""
    if "head/out_gmf" in shared:
        halves = [shared.pop(f"head/{side}/kernel") for side in ("user", "item")]
        shared["head/mlp/0/kernel"] = np.concatenate(halves)
        shared["head/mlp/0/bias"] = shared.pop("head/user/bias")
        gmf, mlp = shared.pop("head/out_gmf"), shared.pop("head/out_mlp/kernel")
        shared["head/out/kernel"] = np.concatenate([gmf[:, None], mlp])
        shared["head/out/bias"] = shared.pop("head/out_mlp/bias")
    return shared


def private_of(federation, state):
    """Every client's private rows in the reference's names, by user."""
    stacked = in_user_order(federation.simulation.buckets, jax.device_get(state.private))
    leaves = flat_names(stacked, PRIVATE_NAMES)
    users = range(federation.simulation.dataset.num_users)
    rows = [{name: leaf[user] for name, leaf in leaves.items()} for user in users]
    if federation.options.backbone == "fcf":
        rows = [{("user" if n == "weight" else n): x for n, x in row.items()} for row in rows]
    return rows


def reference_state(federation, state):
    """The state of the reference that equals a state of the package."""
    shared = shared_of(state.server)
    return {
        "round": int(state.server.round),
        "shared": shared,
        "private": private_of(federation, state),
        "optimizer": reference.optimizer_start(federation.options, shared),
        "bound": federation.options.clip_norm,
    }
