"""Several processes, on one or many machines, that train one federation together.

Every process runs the whole of the same command. JAX's multi-controller runtime joins their devices
into one mesh. Only the first process prints and writes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from fedvlr_jax.errors import InputError

FLAGS = flags.FLAGS


class Cluster(NamedTuple):
    """A cluster system that tells processes about each other.

    Attributes:
      needs: variables that JAX reads.
      advice: how to set them.
      marks: variables that show that the process runs on this system; if empty, `needs` do.
    """

    name: str
    needs: tuple[str, ...]
    advice: str
    marks: tuple[str, ...] = ()


# In the order in which JAX tries them.
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
    """The missing variable or package of the detected cluster; empty if nothing is missing."""
    for name, needs, advice, marks in CLUSTERS:
        # HOSTNAME is set on every system, so it is no sign of Kubernetes.
        signs = marks or needs
        missing = [variable for variable in needs if not environment.get(variable)]
        if missing and any(environment.get(variable) for variable in signs):
            return f"{name} without {missing[0]}: {advice}"
    if environment.get("KUBERNETES_SERVICE_HOST") and not importlib.util.find_spec("kubernetes"):
        return "Kubernetes without the package kubernetes: install jax[k8s]"
    return ""


def join_processes() -> None:
    """Connects to the other processes, if the flags name any. Call it before other uses of JAX.

    Raises:
      InputError: the flags contradict each other, or the connection failed.
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
            # JAX warns about missing packages; the error below names them if needed.
            warnings.simplefilter("ignore")
            jax.distributed.initialize(
                coordinator_address=None if auto else FLAGS.coordinator, **given
            )
    except (ValueError, RuntimeError, LookupError, OSError, ImportError) as error:
        # JAX does not name the missing variable, and ignores a cluster with a missing one.
        reason = str(error).split("\n")[0]
        if auto:
            missing = missing_variable(os.environ)
            reason = missing or f"no known cluster system was found ({reason})"
            reason += "; or give --coordinator=HOST:PORT, --num_processes and --process_id"
        raise InputError(f"--coordinator={FLAGS.coordinator}: {reason}") from error
    if not is_first():
        # Until the process ends.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def only_first(
    context: Callable[[], contextlib.AbstractContextManager[Any]],
) -> contextlib.AbstractContextManager[Any]:
    """`context()` in the first process, nothing in the others."""
    return context() if is_first() else contextlib.nullcontext()


def wait_for_all(place: str) -> None:
    """Waits until every process has called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def any_process(flag: bool) -> bool:
    """Whether the flag is True in any process. Every process gets the same answer."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
