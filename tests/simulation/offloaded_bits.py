"""Trains small federations from every store; prints a digest of all their numbers as JSON.

Started by test_offloaded.py in a process of its own.
"""

import json
import tempfile

import jax
import numpy as np

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training import train
from tests.bits import digest

CASES = {
    "everyone": dict(backbone="pfedrec", upload="delta", chunk=9),
    "cohort": dict(
        backbone="fcf", cohort=20, client_dropout=0.3, clip_norm=0.05, noise_multiplier=0.3
    ),
    "gathered": dict(backbone="fedrap", fusion="mlp", negatives="sampled", min_local_epochs=1),
    "factored": dict(backbone="fedrap", cohort=30, chunk=8),
    "catalogue": dict(backbone="fedncf", cohort=30, chunk=8),
    "whole": dict(backbone="fcf", aggregation="norm_bound", cohort=30, chunk=8),
    "whole rows": dict(
        backbone="pfedrec", negatives="sampled", aggregation="multi_krum", cohort=30, chunk=8
    ),
    "start": dict(
        init="spectral", init_router="history", views="table,text", loss="softmax", cohort=20
    ),
}


def simulate(dataset, **choices):
    values = dict(width=8, router_hidden=8, rounds=4, eval_every=2, local_epochs=2)
    return make_simulation(Config.from_flat(**{**values, **choices}), dataset)


def rows_of(packed, clients):
    """The packed rows of some clients."""
    at = np.searchsorted(packed["clients"], clients)
    return jax.tree.map(lambda leaf: leaf[at], packed["private"])


def main():
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 50, "items": 60})
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, choices in CASES.items():
            touched = None
            for store in ("disk", "host", "device"):
                simulation = simulate(dataset, **choices, store=store, store_dir=folder)
                run, _ = train(simulation)
                packed = simulation.pack(run.best_state)
                # A client that never took part has a row of its own on the device alone.
                touched = packed["clients"] if touched is None else touched
                results[f"{name} {store}"] = digest(
                    (
                        packed["server"],
                        rows_of(packed, touched),
                        [np.frombuffer(json.dumps(run.evaluations).encode(), np.uint8)],
                        simulation.evaluate(run.best_state, "test"),
                        simulation.router_weights(run.best_state),
                    )
                )
        simulation = simulate(dataset, cohort=20, negatives="sampled")
        for blocks in ((3,), (1, 1, 1), (2, 1)):
            state = simulation.init()
            for rounds in blocks:
                state, _ = simulation.run_rounds(state, rounds)
            results[f"blocks {blocks}"] = digest(simulation.pack(state))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
