"""Trains a round on each of 1, 2, 4 and 1 devices, through checkpoints; prints what agreed.

Started by test_devices.py in a process of its own.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.simulation import make_simulation

DEVICES = (1, 2, 4, 1)


def main():
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 50, "items": 60})
    choices = dict(width=8, router_hidden=8, local_epochs=2, cohort=20, aggregation="int32")
    simulations = {
        count: make_simulation(Config.from_flat(devices=count, **choices), dataset)
        for count in set(DEVICES)
    }
    checkpoints = Checkpoints(Path(sys.argv[1]), keep=9)

    def save(simulation, state):
        round_number = int(state.server.round)
        checkpoints.save(round_number, {"state": simulation.pack(state)}, {})
        checkpoints.wait()
        return round_number, checkpoints.load_leaves(round_number)

    def same(one, other):
        return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)

    saved, written = save(simulations[1], simulations[1].init())
    restored, shards = [], []
    for count in DEVICES:
        simulation = simulations[count]
        leaves = checkpoints.read_meta(saved)["leaves"]
        packed = checkpoints.load(saved, {"state": simulation.packed_shapes(leaves, "state")})
        state = simulation.unpack(packed["state"])
        shards.append(len(jax.tree.leaves(state.private)[0].sharding.device_set))
        again, read = save(simulation, state)
        restored.append(again == saved and same(read, written))
        saved, written = save(simulation, simulation.run_rounds(state, 1)[0])

    stayed, _ = simulations[1].run_rounds(simulations[1].init(), len(DEVICES))
    end = same(save(simulations[1], stayed)[1], written)
    print(json.dumps({"shards": shards, "restored": restored, "end": end}))


if __name__ == "__main__":
    main()
