"""Secure aggregation, simulated: the server learns the sum of the uploads, and nothing else.

The protocol of Bonawitz et al. 2017 on a k-regular graph (Bell et al. 2020), in the ring of
integers modulo 2^32:

1. Each client u has a seed b_u of its own and shares a seed s_uv with each of its k neighbours v.
   It gives every neighbour a Shamir share of b_u and of its secret, from which the s_uv follow; any
   t shares give them back.
2. Client u sends its upload, quantised, plus PRG(b_u), plus PRG(s_uv) for neighbours v > u, minus
   PRG(s_uv) for v < u.
3. Some clients drop out. Of each survivor the neighbours reveal shares of b_u, of each client that
   dropped out shares of its secret: never both of one client. The server removes what masks are
   left.

Simulated: key agreement is replaced by a secret for each pair, drawn here; messages are not
encrypted; the clients are honest but for wrong shares, which a commitment to each seed reveals.
Masks, shares, recovery and abort are computed as in the protocol. The arithmetic is exact: the
result is the sum of the quantised uploads of the survivors in the ring.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.errors import InputError

PRIME = 2**61 - 1
SEED_BYTES, SHARE_BYTES, KEY_BYTES = 4, 8, 32


class Aborted(ArithmeticError):
    """The sum cannot be unmasked; no client's upload was revealed."""


class Quantiser(NamedTuple):
    """Real numbers within [-clip, clip] as whole numbers of at most `levels` / 2 in size."""

    clip: float
    levels: int

    def check(self, clients: int) -> None:
        """Raises InputError where the sum of so many clients may leave the ring."""
        if clients * (self.levels // 2) >= 2**31:
            most = (2**31 - 1) // (self.levels // 2)
            raise InputError(
                f"a secure sum of {clients} clients with {self.levels} levels overflows 32 bits; "
                f"give at most {most} clients, or fewer levels"
            )

    def to_ring(self, values: np.ndarray) -> np.ndarray:
        """uint32, rounded toward 0, so that no upload gets longer. Values outside are clipped."""
        most = self.levels // 2
        scaled = np.clip(values * (most / self.clip), -most, most)
        return np.trunc(scaled).astype(np.int64).astype(np.uint32)

    def to_values(self, total: np.ndarray) -> np.ndarray:
        """float64: what a sum in the ring stands for."""
        return total.astype(np.int32) * (self.clip / (self.levels // 2))


class Cost(NamedTuple):
    """What the protocol sends, in bytes for each client, and in how many rounds of messages."""

    up: int
    down: int
    rounds: int


def cost(size: int, neighbours: int) -> Cost:
    """Of an upload of `size` numbers: keys, shares of two seeds, the masked upload, the shares
    that are revealed."""
    shares = 2 * neighbours * SHARE_BYTES
    up = 2 * KEY_BYTES + shares + 4 * size + neighbours * SHARE_BYTES
    return Cost(up=up, down=2 * KEY_BYTES * neighbours + shares, rounds=4)


def neighbours_for(clients: int, threshold: float) -> int:
    """An even number k of neighbours with which the protocol aborts where the share `threshold` of
    the clients is left, or more, with a chance below 1e-9; all others where that is fewer.

    A client's neighbours are a random subset, so those of them that are left are hypergeometric.
    More than k / 2 must be left of every client's.
    """
    from scipy import stats  # Takes a second to load.

    left = int(threshold * clients)
    fails = lambda k: clients * stats.hypergeom.cdf(k // 2, clients - 1, left - 1, k)
    most = 2 * ((clients - 1) // 2)
    for k in range(2, most, 2):
        if fails(k) < 1e-9:
            return k
    return max(most, 2)


def regular_graph(clients: int, neighbours: int, seed: int) -> list[list[int]]:
    """The neighbours of each client: a circle of all in random order, k / 2 to each side."""
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
    """A Shamir share of `secret` for each holder; any `threshold` of them give it back."""
    draws = np.random.default_rng(seed)
    polynomial = [secret, *(int(draws.integers(1, PRIME)) for _ in range(threshold - 1))]

    def at(x: int) -> int:
        value = 0
        for coefficient in reversed(polynomial):
            value = (value * x + coefficient) % PRIME
        return value

    return {holder: at(holder + 1) for holder in holders}


def secret_of(shares: Mapping[int, int], threshold: int) -> int:
    """The secret of `threshold` of these shares, by Lagrange interpolation at 0."""
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
    """What u and v agree on; either's secret gives it (with the other's public key)."""
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
      neighbours: k of the graph. threshold: t, shares that give a seed back.
      dropped: clients whose upload does not arrive. liars: clients that reveal wrong shares.

    Returns:
      uint32 [D], equal to the plain sum in the ring.

    Raises:
      Aborted: fewer than t neighbours of a client are left, or a share was wrong.
      InputError: the graph or the threshold cannot be.
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
    revealed = lambda u, secret: _recovered(
        u, secret, graph[u], alive, set(liars), threshold, seed + u
    )
    for u in range(clients):
        if u in alive:
            total -= mask(revealed(u, own[u]), size)
            continue
        known = dict(enumerate(secrets)) | {u: revealed(u, secrets[u])}
        for v in set(graph[u]) & alive:
            left = mask(_pair_seed(u, v, known), size)
            # Of v's upload the mask with u is left: plus where u > v.
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


def _recovered(
    u: int,
    secret: int,
    friends: Sequence[int],
    alive: Collection[int],
    liars: Collection[int],
    threshold: int,
    seed: int,
) -> int:
    """A seed of u from the shares of its neighbours that are left."""
    shares = shares_of(secret, friends, threshold, seed)
    left = {v: share + (v in liars) for v, share in shares.items() if v in alive}
    if len(left) < threshold:
        raise Aborted(f"client {u}: {len(left)} shares are left of the {threshold} that are needed")
    found = secret_of(left, threshold)
    if _commitment(found) != _commitment(secret):
        raise Aborted(f"client {u}: a share of its seed was wrong")
    return found
