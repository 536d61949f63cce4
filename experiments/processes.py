"""Several processes, on one machine or on many, that train one federation together.

Every process is started with the same command and runs all of it; JAX's multi-controller
runtime makes their devices one mesh. The first one alone prints and writes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from fedvlr_jax.errors import InputError

FLAGS = flags.FLAGS


def define_process_flags() -> None:
    flags.DEFINE_string(
        "coordinator",
        "",
        "HOST:PORT of the first process, or 'auto' to ask the cluster (Slurm, Open MPI, "
        "Kubernetes, a TPU pod); empty: this process is alone.",
    )
    flags.DEFINE_integer("num_processes", 0, "How many there are; 0: the cluster says.")
    flags.DEFINE_integer("process_id", -1, "Which one this is, from 0; -1: the cluster says.")


def join_processes() -> None:
    """Meets the others, where the flags say that there are any. Before any other use of JAX.

    Raises:
      InputError: the flags do not fit together, or the others could not be met.
    """
    given = {"num_processes": FLAGS.num_processes or None, "process_id": FLAGS.process_id}
    given["process_id"] = None if FLAGS.process_id < 0 else FLAGS.process_id
    if not FLAGS.coordinator:
        if any(value is not None for value in given.values()):
            raise InputError("--num_processes, --process_id: need --coordinator=HOST:PORT or auto")
        return
    address = None if FLAGS.coordinator == "auto" else FLAGS.coordinator
    try:
        jax.distributed.initialize(coordinator_address=address, **given)
    except (ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"--coordinator={FLAGS.coordinator}: {reason}") from error
    if not is_first():
        # For as long as the process lives.
        sys.stdout = open(os.devnull, "w")


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def only_first(context: Callable[[], contextlib.AbstractContextManager]):
    """`context()` in the first process, nothing in the others."""
    return context() if is_first() else contextlib.nullcontext()


def wait_for_all(place: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def any_process(flag: bool) -> bool:
    """Whether the flag holds in any process; every one hears the same."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
