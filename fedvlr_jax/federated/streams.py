"""The random streams of a run: a key for each purpose, round and client.

All of them derive from the key of the run, which never advances. So a draw does not depend on
earlier draws, on the order of the clients or on the place where they are computed.
"""

from __future__ import annotations

import jax

# Each use of randomness folds its own number into the key of the run.
INIT, LOCAL, RESPONSE, EPOCHS, NOISE, CLIP_SHARE, ATTACK, GROUP = range(8)
# Folded into the key of a round's training, whose other numbers are those of clients.
RING_NOISE = 2**31 - 1


def stream(key: jax.Array, purpose: int, *numbers: jax.Array | int) -> jax.Array:
    """The key of one purpose at (round, client, ...), independent of every other."""
    for number in (purpose, *numbers):
        key = jax.random.fold_in(key, number)
    return key


def seed_of(key: jax.Array) -> int:
    """The seed of a run's key: the last word of the key that `settings.key_of` makes of it."""
    return int(jax.device_get(jax.random.key_data(key))[-1])
