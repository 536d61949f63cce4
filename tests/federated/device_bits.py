"""Trains small federations on numbers of devices; prints digests of all numbers as JSON.

Arguments: the numbers of devices, then names of CASES. Started by test_devices.py in a process of
its own: the programs are compiled as outside the tests, with all optimisations.
"""

import dataclasses
import json
import sys

import jax

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.simulation import make_simulation
from tests.bits import digest
from tests.oracle.federations import cover, federations, views_of

ROUNDS = 3
SMALL = dict(width=8, router_hidden=8, local_epochs=2, aggregation="int32")
# Options that the federations of the oracle do not have.
OTHERS = {
    "history": dict(
        backbone="fedavg", views="sum,mlp,gate", history_weight=0.5, negatives="sampled"
    ),
    "dense": dict(backbone="fedavg", views="sum,mlp,gate"),
    "shared": dict(backbone="fedncf", fusion="shared", views="sum,mlp,gate"),
    "spectral": dict(init="spectral", init_router="history", loss="softmax"),
    "clipped": dict(
        backbone="pfedrec", cohort=20, clip_norm=0.05, clip_quantile=0.5, noise_multiplier=0.5
    ),
    "compressed": dict(backbone="fedncf", negatives="sampled", upload_bits=8),
    "low rank": dict(upload_rank=3, client_dropout=0.3),
    "buffered": dict(backbone="fedrap", fusion="mlp", cohort=12, buffer=4, max_staleness=3),
    "host": dict(cohort=20, store="host", chunk=2),
}
# Compared on 1, 2, 4 and 8 devices; the others of OTHERS on 1 and 8.
ON_EACH = ("clipped",)

# The choices whose every value is covered.
VALUES = ("fusion", "loss", "negatives", "upload", "server_optimizer", "clip_norm", "recency")
VALUES += ("history_weight",)


def cases():
    """The choices of each case by its name: OTHERS, and federations of the oracle that cover each
    backbone on each plan, and VALUES."""

    def holds(choices):
        pair = choices["backbone"], choices["plan"]
        return {pair} | {(name, choices[name]) for name in VALUES}

    numbers = cover([holds(choices) for choices in federations()])
    return OTHERS | {f"oracle {number}": dict(federations()[number]) for number in numbers}


def simulation_of(dataset, devices, choices):
    choices = {name: value for name, value in choices.items() if name != "received"}
    modalities = choices.pop("modalities", None)
    if modalities is not None:
        features = {name: dataset.features[name] for name in modalities}
        dataset = dataclasses.replace(dataset, features=features)
        views = ",".join(views_of({**choices, "modalities": modalities}))
        choices["views"] = views if choices["fusion"] == "bilevel" else "auto"
    config = Config.from_flat(**{**SMALL, **choices, "aggregation": "int32", "devices": devices})
    if config.data.recency:
        train = dataset.train.weighted_by_recency(config.data.recency)
        dataset = dataclasses.replace(dataset, train=train)
    return make_simulation(config, dataset)


def numbers_of(simulation, state):
    """A digest of each part of the result of some rounds after `state`."""
    state, metrics = simulation.run_rounds(state, ROUNDS)
    packed = simulation.pack(state)
    ranks, weights = simulation.ranks_and_weights(state, "test")
    parts = {
        "server": packed["server"],
        "private": packed["private"],
        "metrics": metrics,
        "ranks": (ranks, weights),
    }
    return {name: digest(jax.device_get(part)) for name, part in parts.items()}


def main():
    counts, names = [int(n) for n in sys.argv[1].split(",")], sys.argv[2:]
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 50, "items": 60})
    results = {}
    for name in names:
        choices = cases()[name]
        simulations = [simulation_of(dataset, count, choices) for count in counts]
        # In OTHERS the initialization runs on each number of devices; elsewhere it is not compiled
        # a second time.
        first = simulations[0]
        begin = lambda each: each.unpack(first.pack(first.init()))  # noqa: B023
        results[name] = [
            numbers_of(each, each.init() if name in OTHERS else begin(each)) for each in simulations
        ]
        print(name, [len(set(map(str, results[name])))], file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
