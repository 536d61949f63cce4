"""Runs rounds in one part and in two; prints digests of all their numbers as JSON.

Started by test_divided.py in a process of its own.
"""

import json

from fedvlr_jax.config import Config
from fedvlr_jax.data.registry import load_dataset
from fedvlr_jax.simulation import make_simulation
from tests.bits import digest

SMALL = dict(width=8, local_epochs=1, fusion="none", baselines=False)
PRIVATE = dict(privacy="central", clip_norm=0.1, noise_multiplier=2.0, sampling="poisson")
# Up to six rounds are one program.
CASES = {
    "buffered": dict(
        eval_every=6, buffer=5, cohort=15, max_staleness=4, participation="uniform", **SMALL
    ),
    # The noise of earlier rounds is in the checkpoint.
    "banded noise": dict(eval_every=3, cohort=10, noise_bands=3, **PRIVATE, **SMALL),
}


def numbers(dataset, parts, **choices):
    """Packed after `parts` of the rounds, each of a simulation of its own; without the key."""
    packed = None
    for rounds in parts:
        simulation = make_simulation(Config.from_flat(rounds=sum(parts), **choices), dataset)
        state = simulation.unpack(packed) if packed else simulation.init()
        state, metrics = simulation.run_rounds(state, rounds)
        assert metrics.participants.all()
        packed = simulation.pack(state)
    return packed["server"]._replace(key=()), packed["private"]


def main():
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 60, "items": 60})
    results = {}
    for name, choices in CASES.items():
        results[name] = [digest(numbers(dataset, parts, **choices)) for parts in ((6,), (2, 4))]
    # The rows of clients that never took part are on the device alone.
    stores = ("device", "host")
    servers = [numbers(dataset, (6,), **CASES["banded noise"], store=s)[0] for s in stores]
    results["banded noise by store"] = [digest(server) for server in servers]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
