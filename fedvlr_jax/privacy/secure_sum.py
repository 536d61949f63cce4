"""A simulation of secure aggregation: the server learns only the sum of the uploads.

The protocol of Bonawitz et al. 2017 on a k-regular graph (Bell et al. 2020), in the ring of
integers modulo 2^32:

1. Each client u has its own seed b_u, and a seed s_uv in common with each of its k neighbours v. It
   gives every neighbour a Shamir share of b_u and of its secret, which determines the s_uv. Any t
   shares recover a seed or a secret.
2. Client u sends its quantised upload, plus PRG(b_u), plus PRG(s_uv) for neighbours v > u, minus
   PRG(s_uv) for v < u.
3. Some clients drop out. The neighbours reveal shares of b_u for each survivor, and shares of the
   secret for each client that dropped out; never both for one client. The server removes the
   remaining masks.

Simplifications: each pair draws a secret instead of a key agreement. Messages are not encrypted.
Clients are honest, except for wrong shares, which a commitment to each seed detects. Masks, shares,
recovery and abort are computed as in the protocol. The arithmetic is exact: the result is the sum
of the quantised uploads of the survivors in the ring.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.errors import InputError

PRIME = 2**61 - 1
SHARE_BYTES, KEY_BYTES = 8, 32


class Aborted(ArithmeticError):
    """The sum cannot be unmasked; no client's upload was revealed."""


class Cost(NamedTuple):
    """The bytes that the protocol sends for each client, and its rounds of messages."""

    up: int
    down: int
    rounds: int


def cost(size: int, neighbours: int) -> Cost:
    """The cost of an upload of `size` numbers: keys, shares of two seeds, the masked upload and the
    revealed shares."""
    shares = 2 * neighbours * SHARE_BYTES
    up = 2 * KEY_BYTES + shares + 4 * size + neighbours * SHARE_BYTES
    return Cost(up=up, down=2 * KEY_BYTES * neighbours + shares, rounds=4)


def neighbours_for(clients: int, threshold: float) -> int:
    """An even number k of neighbours. If at least the share `threshold` of the clients remains, the
    protocol aborts with a probability below 1e-9.

    A client's neighbours are a random subset, so the number of remaining ones is hypergeometric.
    Every client needs more than k / 2. In a small population k is the number of all others.
    """
    from scipy import stats  # The import takes a second.

    left = int(threshold * clients)
    fails = lambda k: clients * stats.hypergeom.cdf(k // 2, clients - 1, left - 1, k)
    most = 2 * ((clients - 1) // 2)
    for k in range(2, most, 2):
        if fails(k) < 1e-9:
            return k
    return max(most, 2)


def regular_graph(clients: int, neighbours: int, seed: int) -> list[list[int]]:
    """The neighbours of each client: the k / 2 next clients on each side, in a random circle."""
    if not 2 <= neighbours < clients or neighbours % 2:
        raise InputError(
            f"{neighbours} neighbours: give an even number of at least 2 and below {clients}"
        )
    order = np.random.default_rng(seed).permutation(clients)
    place = np.argsort(order)
    steps = [s for s in range(-neighbours // 2, neighbours // 2 + 1) if s]
    return [sorted(int(order[(place[u] + s) % clients]) for s in steps) for u in range(clients)]


def mask(seed: int, size: int) -> np.ndarray:
    """PRG(seed): uint32 [size], uniform."""
    bits = np.random.Generator(np.random.Philox(seed))
    return bits.integers(0, 2**32, size, np.uint32)


def shares_of(secret: int, holders: Sequence[int], threshold: int, seed: int) -> dict[int, int]:
    """A Shamir share of `secret` for each holder; any `threshold` of them recover it."""
    draws = np.random.default_rng(seed)
    polynomial = [secret, *(int(draws.integers(1, PRIME)) for _ in range(threshold - 1))]

    def at(x: int) -> int:
        value = 0
        for coefficient in reversed(polynomial):
            value = (value * x + coefficient) % PRIME
        return value

    return {holder: at(holder + 1) for holder in holders}


def secret_of(shares: Mapping[int, int], threshold: int) -> int:
    """Recovers the secret from `threshold` of these shares, by Lagrange interpolation at 0."""
    points = [(holder + 1, value) for holder, value in sorted(shares.items())[:threshold]]
    secret = 0
    for x, value in points:
        above = below = 1
        for other, _ in points:
            if other != x:
                above, below = above * other % PRIME, below * (other - x) % PRIME
        secret = (secret + value * above * pow(below, -1, PRIME)) % PRIME
    return secret


def _commitment(secret: int) -> bytes:
    return hashlib.sha256(str(secret).encode()).digest()


def _pair_seed(u: int, v: int, secrets: Mapping[int, int] | Sequence[int]) -> int:
    """The common seed of u and v. The secret of one and the public key of the other give it."""
    low, high = min(u, v), max(u, v)
    content = f"{low},{high},{secrets[low] ^ secrets[high]}".encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def secure_sum(
    uploads: np.ndarray,
    *,
    neighbours: int,
    threshold: int,
    dropped: Collection[int] = (),
    liars: Collection[int] = (),
    seed: int = 0,
) -> np.ndarray:
    """The sum of the survivors' uploads, as the server unmasks it.

    Args:
      uploads: uint32 [K, D], quantised.
      neighbours: k of the graph. threshold: t, the shares that recover a seed.
      dropped: clients whose upload does not arrive. liars: clients that reveal wrong shares.

    Returns:
      uint32 [D], equal to the plain sum in the ring.

    Raises:
      Aborted: fewer than t neighbours of a client remain, or a share was wrong.
      InputError: the graph or the threshold is impossible.
    """
    clients, size = uploads.shape
    graph = regular_graph(clients, neighbours, seed)
    if not neighbours / 2 < threshold <= neighbours:
        raise InputError(
            f"threshold {threshold}: give more than half of {neighbours} neighbours, so that the "
            "server cannot learn both seeds of a client, and at most all"
        )
    draws = np.random.default_rng([seed, 1])
    own: list[int] = np.asarray(draws.integers(0, 2**32, size=clients)).tolist()
    secrets: list[int] = np.asarray(draws.integers(0, 2**60, size=clients)).tolist()
    total = np.zeros(size, np.uint32)
    alive = set(range(clients)) - set(dropped)
    for u in sorted(alive):
        total += _masked(u, uploads[u], graph[u], own[u], secrets)

    def revealed(u: int, secret: int) -> int:
        shares = shares_of(secret, graph[u], threshold, seed + u)
        sent = {v: share + (v in liars) for v, share in shares.items() if v in alive}
        return _recovered(u, secret, sent, threshold)

    for u in range(clients):
        if u in alive:
            total -= mask(revealed(u, own[u]), size)
            continue
        known = dict(enumerate(secrets)) | {u: revealed(u, secrets[u])}
        for v in set(graph[u]) & alive:
            left = mask(_pair_seed(u, v, known), size)
            # Survivor v's upload still has its mask with u, with a plus if u > v.
            total = total - left if u > v else total + left
    return total


def _masked(
    u: int, upload: np.ndarray, friends: Sequence[int], own: int, secrets: Sequence[int]
) -> np.ndarray:
    sent = upload + mask(own, len(upload))
    for v in friends:
        pair = mask(_pair_seed(u, v, secrets), len(upload))
        sent = sent + pair if v > u else sent - pair
    return sent


def _recovered(u: int, secret: int, sent: Mapping[int, int], threshold: int) -> int:
    """Recovers a seed of u from the shares that its remaining neighbours sent."""
    if len(sent) < threshold:
        raise Aborted(f"client {u}: {len(sent)} shares remain, but {threshold} are needed")
    found = secret_of(sent, threshold)
    if _commitment(found) != _commitment(secret):
        raise Aborted(f"client {u}: a share of its seed was wrong")
    return found
