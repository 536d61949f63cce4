"""Two processes on loopback train what one process with two devices trains, to the bit."""

import os
import socket
import subprocess
import sys

import pytest

from fedvlr_jax.checkpointing import Checkpoints
from tests.conftest import ROOT
from tests.experiments.commands import SMALL, refused

FLAGS = [*SMALL, "--rounds=4", "--aggregation=int32", "--cohort=40", "--baselines=false"]
FLAGS += ["--checkpoint_every=2"]  # When to save is agreed upon too.


def started(folder, devices, *flags):
    count = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *FLAGS, *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FEDVLR_CACHE_DIR": "", "XLA_FLAGS": count},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_are_one_run(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    together = [f"--coordinator={address}", "--num_processes=2", "--workdir=two"]
    processes = [started(tmp_path, 1, *together, f"--process_id={i}") for i in range(2)]
    processes.append(started(tmp_path, 2, "--workdir=one"))
    printed = [process.communicate(timeout=150) for process in processes]
    for process, (_, errors) in zip(processes, printed, strict=True):
        assert process.returncode == 0, errors
    assert "on 2 devices" in " ".join(printed[0][0].split())
    # The runtime announces its peers by itself; the command says nothing in the second.
    assert "round" not in printed[1][0] and "report" not in printed[1][0]
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("one", "two")]
    assert metrics[0] == metrics[1]
    one, two = (Checkpoints(tmp_path / name / "checkpoints") for name in ("one", "two"))
    a, b = one.load_leaves(4), two.load_leaves(4)
    assert a.keys() == b.keys()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)
    assert (tmp_path / "two/report.html").exists()


@pytest.mark.parametrize("flag", ["--num_processes=2", "--process_id=0"])
def test_processes_need_a_place_to_meet(flag, run):
    assert "need --coordinator" in refused(run("train", *SMALL, flag, "--workdir=w"))
