"""Checkpoints that a run can trust: written aside, sealed last, verified before use.

A checkpoint is a directory `round_00000020` holding `state` (orbax), `meta.json`, and the
manifest of `sealing.py`. Orbax notices neither flipped bits nor another dtype, and takes a
stray directory for the latest step. Here a directory that is not whole to the bit is no
checkpoint, and the newest whole one is used.

A run saves the tree {"state": ..., "best": ...} of two packed states, each {"server":
ServerState, "clients": int32 [T], "private": leaves [T, ...]}: row r of a private leaf belongs
to client clients[r]. A client without a row has its initial one. Where a run ended between two
multiples of --eval_every, with its best state, "best_before_end" is the best one before.

Each checkpoint holds all of its bytes. A best state that did not change is written again, not
linked: one flipped bit in a shared file would damage every checkpoint that is kept. Equal leaves
are stored once only within a checkpoint.

- `checkpoints.py`: `Checkpoints`, those of one run. `layout.py`: how leaves are cut and packed.
- `writing.py` and `reading.py`: one checkpoint through orbax.
"""

from __future__ import annotations

from fedvlr_jax.checkpointing.checkpoints import Checkpoints
from fedvlr_jax.checkpointing.reading import RowsLater, SavedRows

__all__ = ["Checkpoints", "RowsLater", "SavedRows"]
