"""Runs a small federation on the devices that the flags give; prints its numbers as JSON.

Started by test_devices.py in a process of its own, for the number of devices is fixed when
JAX starts.
"""

import json
import sys

import jax

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.buckets import in_user_order
from fedvlr_jax.training import train
from tests.bits import digest

CASES = {
    "dense": dict(backbone="fcf", views="id,attention,gate"),
    "start": dict(init="spectral", init_router="history", views="table,text", loss="softmax"),
    "gathered": dict(backbone="fedncf", negatives="sampled"),
    "personal": dict(backbone="fedrap", fusion="mlp"),
    "cohort": dict(
        backbone="fedavg",
        upload="delta",
        cohort=20,
        client_dropout=0.2,
        clip_norm=0.05,
        noise_multiplier=0.5,
    ),
}
# Also with fixed-point sums. The bits of these on any number of devices are in device_bits.py.
FIXED_POINT = ("dense", "cohort")


def main():
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 50, "items": 60})
    results = {}
    for devices in map(int, sys.argv[1].split(",")):
        for name, choices in CASES.items():
            for aggregation in ("float32", "int32")[: 1 + (name in FIXED_POINT)]:
                config = Config.from_flat(
                    width=8,
                    router_hidden=8,
                    rounds=4,
                    eval_every=2,
                    local_epochs=2,
                    devices=devices,
                    aggregation=aggregation,
                    **choices,
                )
                simulation = make_simulation(config, dataset)
                run, _ = train(simulation)
                rows = in_user_order(simulation.buckets, jax.device_get(run.state.private))
                leaf = jax.tree.leaves(run.state.private)[0]
                results[f"{name} {aggregation} {devices}"] = {
                    "digest": digest((run.state.server.shared, rows)),
                    "evaluations": run.evaluations,
                    "shards": len(leaf.sharding.device_set),
                }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
