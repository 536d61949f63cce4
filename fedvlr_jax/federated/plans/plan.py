"""The interface of a plan, a way to execute local epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from fedvlr_jax.federated.local import LocalUpdate, Task, WriteBack
from fedvlr_jax.types import PyTree
from fedvlr_jax.uplink import Needs


class Plan(NamedTuple):
    """A way to execute local epochs.

    Attributes:
      fits: whether it can train a task.
      gives: the needs of a rule that its uploads serve.
      make_update: makes its update of a chunk.
      client_bytes: (task, padded history length) -> an estimate of the working bytes of one client
        of a chunk, without its private rows and their gradient.
      write_back: (broadcast, `LocalResult.private`, rows before) -> the private rows after a round;
        None where the update returns the rows themselves. Large rows are written once, and only in
        a round that is finite.
      view_cache: makes `Broadcast.view_cache`.
      cache_bytes: on a CPU, the most bytes of the working arrays of a chunk, for a plan that passes
        several times over [K, I, d]: the array then stays in the cache from one pass to the next.
    """

    fits: Callable[[Task], bool]
    gives: Needs
    make_update: Callable[[Task], LocalUpdate]
    client_bytes: Callable[[Task, int], int]
    write_back: WriteBack | None = None
    view_cache: Callable[[Task, jax.Array], PyTree] = lambda task, views: None
    cache_bytes: int | None = None
