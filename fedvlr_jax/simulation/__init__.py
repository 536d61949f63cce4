"""A federation over a data set: `make_simulation`, and the parts that it is made of.

- `simulation.py`: `Simulation`, the functions that a user calls, and `make_simulation`.
- `setup.py`: data, model, plan and buckets. `state.py`: the state, and how it begins.
- `sampling.py`: which clients each round samples. `workload.py`: the bytes and rows of each.
- `engine.py`: the protocol of an engine, which holds the private rows.
  `on_device.py` with `rounds.py`: on the devices. `offloaded.py` with `chunked_rounds.py` and
  `chunks.py`: in host memory or in files.
- `remaking.py`, `drawn.py`: private rows that a checkpoint need not hold.
- `evaluation.py`, `buckets.py`, `packing.py`, `failures.py`: the parts that both engines use.
"""

from __future__ import annotations

from fedvlr_jax.errors import NonFiniteError
from fedvlr_jax.simulation.setup import check_setup
from fedvlr_jax.simulation.simulation import Simulation, make_simulation
from fedvlr_jax.simulation.state import State

__all__ = ["NonFiniteError", "Simulation", "State", "check_setup", "make_simulation"]
