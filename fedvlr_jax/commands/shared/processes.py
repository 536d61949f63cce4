"""Several processes, on one machine or on many, that train one federation together.

Every process is started with the same command and runs all of it; JAX's multi-controller
runtime makes their devices one mesh. The first one alone prints and writes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from fedvlr_jax.errors import InputError

FLAGS = flags.FLAGS


class Cluster(NamedTuple):
    """An environment in which processes find each other.

    Attributes:
      needs: variables that JAX reads; any of them, or of `marks`, shows that it is there.
      advice: how processes are started there.
    """

    name: str
    needs: tuple[str, ...]
    advice: str
    marks: tuple[str, ...] = ()


# In the order in which JAX looks for them.
CLUSTERS = (
    Cluster(
        "Open MPI",
        (
            *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
            "OMPI_MCA_orte_hnp_uri",
        ),
        "mpirun of Open MPI 4 sets all of them",
    ),
    Cluster(
        "Slurm",
        (
            *("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID"),
            "SLURM_LOCALID",
        ),
        "srun sets it",
    ),
    Cluster(
        "TPU pod",
        ("TPU_WORKER_ID",),
        "set it to the number of this worker, from 0",
        ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"),
    ),
    Cluster(
        "Kubernetes",
        ("HOSTNAME", "JOB_COMPLETION_INDEX"),
        "an indexed Job sets it",
        ("KUBERNETES_SERVICE_HOST",),
    ),
)


def missing_variable(environment: Mapping[str, str]) -> str:
    """What a cluster that is there only in part lacks; empty where none is there, or nothing
    lacks."""
    for name, needs, advice, marks in CLUSTERS:
        # HOSTNAME is everywhere.
        signs = marks or needs
        missing = [variable for variable in needs if not environment.get(variable)]
        if missing and any(environment.get(variable) for variable in signs):
            return f"{name} without {missing[0]}: {advice}"
    if environment.get("KUBERNETES_SERVICE_HOST") and not importlib.util.find_spec("kubernetes"):
        return "Kubernetes without the package kubernetes: install jax[k8s]"
    return ""


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
    auto = FLAGS.coordinator == "auto"
    try:
        with warnings.catch_warnings():
            # That a package is missing; said below if it matters.
            warnings.simplefilter("ignore")
            jax.distributed.initialize(
                coordinator_address=None if auto else FLAGS.coordinator, **given
            )
    except (ValueError, RuntimeError, LookupError, OSError, ImportError) as error:
        # JAX does not name what it misses, and what it finds in part it takes for nothing.
        reason = str(error).split("\n")[0]
        if auto:
            missing = missing_variable(os.environ)
            reason = missing or f"no cluster that says who is who ({reason})"
            reason += "; or give --coordinator=HOST:PORT, --num_processes and --process_id"
        raise InputError(f"--coordinator={FLAGS.coordinator}: {reason}") from error
    if not is_first():
        # For as long as the process lives.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


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
