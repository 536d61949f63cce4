"""Trains synchronous rounds, and server steps whose uploads are all of the newest version; prints
whether they agree to the bit, as JSON.

Started by test_asynchronous.py in a process of its own.
"""

import json

from tests.bits import digest
from tests.fleet.test_asynchronous import FRESH, Given, after, small

KINDS = {
    "dense": dict(fusion="bilevel"),
    "factored": dict(fusion="mlp", backbone="fedrap", aggregation="int32"),
    "gathered": dict(fusion="bilevel", backbone="fedncf", negatives="sampled", min_local_epochs=1),
    "compressed": dict(clip_norm=0.1, clip_quantile=0.5, upload_rank=3),
}


def numbers(run, *, losses):
    _, packed, metrics = run
    server = packed["server"]
    parts = server.shared, server.optimizer, server.uplink, packed["private"]
    return digest((parts, metrics) if losses else parts)


def main():
    results = {}
    for name, kind in KINDS.items():
        synchronous = after(small(cohort=12, deadline_s=1e9, **kind))
        buffered = after(small(cohort=12, buffer=12, max_staleness=0, **kind))
        results[name] = numbers(synchronous, losses=True) == numbers(buffered, losses=True)
    wide = dict(cohort=8, fusion="bilevel")
    synchronous = after(small(**wide), participation=Given(*FRESH))
    buffered = after(small(buffer=4, max_staleness=3, **wide), participation=Given(*FRESH))
    same = numbers(synchronous, losses=False) == numbers(buffered, losses=False)
    results["among kept versions"] = same
    print(json.dumps(results))


if __name__ == "__main__":
    main()
