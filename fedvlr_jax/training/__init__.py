"""A whole run: training with early stopping, its summary, its costs, many runs in one program."""

from fedvlr_jax.training.loop import train
from fedvlr_jax.training.run_state import RunState, copy_state, new_run
from fedvlr_jax.training.schedule import position, taken_up
from fedvlr_jax.training.timing import Timing

__all__ = [
    "RunState",
    "Timing",
    "copy_state",
    "new_run",
    "position",
    "taken_up",
    "train",
]
