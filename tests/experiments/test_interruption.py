"""A run that is stopped, killed or hindered goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.launching.faults import (
    Interrupted,
    OutOfMemory,
    StopRequest,
    memory_explained,
)
from fedvlr_jax.commands.one_run.experiment import run_experiment
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError, NonFiniteError
from fedvlr_jax.report import Progress, locked
from fedvlr_jax.simulation import make_simulation
from tests.conftest import ROOT
from tests.experiments.commands import SMALL, refused
from tests.programs import environment_of

pytestmark = pytest.mark.usefixtures("undrawn")

ROUNDS = 6
CHOICES = (
    dict(synthetic_users=40, synthetic_items=60, width=8, router_hidden=8, local_epochs=2)
    | dict(rounds=ROUNDS, eval_every=1, checkpoint_every=1, checkpoint_share=1.0)
    | dict(baselines=False, cohort=20, client_dropout=0.2)
)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})


@pytest.fixture(scope="module")
def simulation(dataset):
    """Compiled once: runs differ in their directory alone."""
    return make_simulation(Config.from_flat(**CHOICES), dataset)


def at(simulation, workdir, **choices):
    config = Config.from_flat(**{**CHOICES, "workdir": str(workdir), **choices})
    moved = make_simulation(config, simulation.dataset)
    for name in ("init_server", "init_private"):
        moved.initial.__dict__[name] = getattr(simulation.initial, name)
    for name in ("run", "evaluate"):
        moved.engine.__dict__[name] = getattr(simulation.engine, name)
    return moved


def go(simulation, leave=lambda: False):
    with Progress(ROUNDS) as progress:
        return run_experiment(simulation, progress, leave)


def result(workdir):
    """Everything a run computed, to the bit."""
    summary = json.loads((workdir / "summary.json").read_text())
    del summary["timing"], summary["peak_rss_mb"]
    checkpoints = Checkpoints(workdir / "checkpoints")
    leaves = {n: x.tobytes() for n, x in checkpoints.load_leaves(checkpoints.newest()).items()}
    return (workdir / "metrics.jsonl").read_bytes(), summary, leaves


@pytest.fixture(scope="module")
def whole(simulation, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "w"
    go(at(simulation, workdir))
    return result(workdir)


def test_resume_after_every_round_is_exact_to_the_bit(simulation, tmp_path):
    """Of twenty rounds, also of those between two evaluations."""
    blocks = dict(rounds=20, eval_every=4)
    go(at(simulation, tmp_path / "whole", **blocks))
    for finished in range(1, 20):
        asked = iter([False, True])
        with pytest.raises(Interrupted, match=f"after round {finished} of 20"):
            go(at(simulation, tmp_path / "w", **blocks), lambda asked=asked: next(asked))
        lines = (tmp_path / "w/metrics.jsonl").read_text().splitlines()
        assert len(lines) == 1 + finished // 4
    go(at(simulation, tmp_path / "w", **blocks))
    assert result(tmp_path / "w") == result(tmp_path / "whole")


@pytest.mark.parametrize("stores", [("disk", "disk"), ("host", "host"), ("disk", "device")])
@pytest.mark.slow
def test_a_run_off_the_device_goes_on_in_any_store(stores, dataset, tmp_path):
    def simulate(store, workdir):
        choices = {**CHOICES, "workdir": str(tmp_path / workdir), "store": store}
        return make_simulation(Config.from_flat(**choices), dataset)

    first, second = stores
    go(simulate(first, "whole"))
    asked = iter([False, False, False, True])
    with pytest.raises(Interrupted, match=r"after round [1-5] of 6"):
        go(simulate(first, "w"), lambda: next(asked))
    go(simulate(second, "w"))
    (metrics, summary, leaves), whole = result(tmp_path / "w"), result(tmp_path / "whole")
    if first == second:
        assert (metrics, summary, leaves) == whole
    else:  # These programs are not optimised: see test_offloaded for the bits of two stores.
        loss = lambda lines: [json.loads(line)["loss"] for line in lines.splitlines()[1:]]
        np.testing.assert_allclose(loss(metrics), loss(whole[0]), rtol=1e-5)


@pytest.mark.parametrize("store", ["device", "disk"])
@pytest.mark.slow
def test_a_run_of_several_starts_is_that_of_one_to_the_bit(store, dataset, tmp_path):
    """Also where the first ended off the grid with its best state, and patience ended the next."""
    flags = {**CHOICES, "eval_every": 3, "store": store, "patience": 0}
    compiled = {}

    def make(name, **more):
        config = Config.from_flat(**{**flags, "workdir": str(tmp_path / name), **more})
        made = make_simulation(config, dataset)
        made.__dict__.update(compiled)
        return made

    once = make("whole", rounds=12)
    made = set(once.__dict__)
    go(once)
    compiled |= {name: value for name, value in once.__dict__.items() if name not in made}
    # Rounds 1 and 4 are no multiples of 3, and better than those before.
    for more in (dict(rounds=1), dict(rounds=4), dict(rounds=12, patience=1), dict(rounds=12)):
        go(make("w", **more))
        lines = (tmp_path / "w/metrics.jsonl").read_text().splitlines()
        best = [(entry["round"], entry["best_round"]) for entry in map(json.loads, lines)]
        if more["rounds"] == 4:
            assert best[-1] == (4, 4)
    assert result(tmp_path / "w") == result(tmp_path / "whole")


def test_a_flag_that_the_run_did_not_know_is_named(simulation, tmp_path):
    go(at(simulation, tmp_path / "w", rounds=1))
    file = tmp_path / "w/config.json"
    config = json.loads(file.read_text())
    del config["flags"]["recency"]
    file.write_text(json.dumps(config))
    unknown = r"another run: recency was unknown to the version that saved it, is 0\.0; give"
    with pytest.raises(InputError, match=unknown):
        go(at(simulation, tmp_path / "w"))


def test_checkpoints_of_an_unknown_run_are_not_removed_in_silence(simulation, tmp_path):
    go(at(simulation, tmp_path / "w", rounds=1))
    (tmp_path / "w/config.json").unlink()
    (tmp_path / "w/summary.json").unlink()
    held = Checkpoints(tmp_path / "w/checkpoints").rounds()
    with pytest.raises(InputError, match=r"holds checkpoints but no config\.json"):
        go(at(simulation, tmp_path / "w", rounds=1))
    assert Checkpoints(tmp_path / "w/checkpoints").rounds() == held == [1]
    go(at(simulation, tmp_path / "w", rounds=1, overwrite=True))


def test_the_price_decides_when_is_saved_and_not_what(simulation, whole, tmp_path):
    go(at(simulation, tmp_path, checkpoint_share=1e-9, keep_checkpoints=ROUNDS))
    # The end alone: no minute lies before it.
    assert Checkpoints(tmp_path / "checkpoints").rounds() == [ROUNDS]
    assert result(tmp_path) == whole


def test_fewer_rounds_than_were_trained_are_evaluated_and_done(simulation, tmp_path):
    asked = iter([False, True, False, True])
    for finished in (1, 2):
        with pytest.raises(Interrupted, match=f"after round {finished} "):
            go(at(simulation, tmp_path, eval_every=4), lambda: next(asked))
    for _ in range(2):
        summary, _ = go(at(simulation, tmp_path, eval_every=4, rounds=2))
        assert summary["rounds_run"] == 2


def test_metrics_ahead_of_the_checkpoint_are_taken_back(simulation, whole, tmp_path):
    workdir = tmp_path / "w"
    asked = iter([False, False, False, True])
    with pytest.raises(Interrupted):
        go(at(simulation, workdir), lambda: next(asked))
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "loss": 1.0}\n{"round": 5, "lo')
    go(at(simulation, workdir))
    assert result(workdir) == whole


def test_a_damaged_newest_checkpoint_costs_rounds_not_bits(simulation, whole, tmp_path, capsys):
    workdir = tmp_path / "w"
    asked = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        go(at(simulation, workdir), lambda: next(asked))
    (workdir / "checkpoints/round_00000004/meta.json").write_text("{}")
    go(at(simulation, workdir))
    printed = capsys.readouterr().out
    assert "meta.json: differs from what was written; looking for an older" in printed
    assert "resumes after round 3" in printed and result(workdir) == whole


def test_must_refuses_where_no_checkpoint_is_whole(simulation, tmp_path):
    workdir = tmp_path / "w"
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        go(at(simulation, workdir), lambda: next(asked))
    (workdir / "checkpoints/round_00000001/manifest.json").unlink()
    with pytest.raises(InputError, match=r"resume=must: .* holds no whole checkpoint"):
        go(at(simulation, workdir, resume="must"))
    with pytest.raises(InputError, match=r"resume=must: .* holds no run"):
        go(at(simulation, tmp_path / "new", resume="must"))
    with pytest.raises(InputError, match="already holds a run"):
        go(at(simulation, workdir, resume="never"))
    assert not (tmp_path / "new").exists()


def test_a_second_process_is_refused_and_a_dead_one_is_no_hindrance(simulation, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "w")], stdout=subprocess.PIPE, cwd=ROOT
    )
    holder.stdout.readline()
    with pytest.raises(InputError, match=f"process {holder.pid} is writing there"):
        go(at(simulation, tmp_path / "w"))
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with locked(tmp_path / "w"):
        pass


HOLD = """
import sys, time
from fedvlr_jax.report import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a directory no one can write")
def test_a_directory_that_cannot_be_written_is_one_line(simulation):
    with pytest.raises(InputError, match=r"^workdir=/proc/runs: cannot be written: [^\n]*$"):
        go(at(simulation, "/proc/runs"))


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        (
            {"client_lr": 1e30},
            r"round \d: a non-finite number at client \d+, leaf head.bias.*; lower client_lr=1e",
        ),
        ({"server_lr_items": 1e38}, r"at the server's step, leaf shared.items"),
        (
            {"init_scale": 1e30},
            r"scores of client 0 are not finite; lower init_scale=1e\+30; no checkpoint yet",
        ),
    ],
)
def test_a_number_that_is_not_finite_is_named(dataset, tmp_path, choices, named):
    config = Config.from_flat(**{**CHOICES, "workdir": str(tmp_path), "cohort": 0, **choices})
    with pytest.raises(NonFiniteError, match=named) as caught:
        go(make_simulation(config, dataset))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(caught.value.state.private))


def test_the_last_good_checkpoint_stays_and_is_named(simulation, tmp_path):
    broken = at(simulation, tmp_path)

    def run(state, population, *rounds):
        if int(state.server.round) == 2:
            rates = population.rates._replace(client_lr=1e30)
            population = population._replace(rates=rates)
        return simulation.engine.run(state, population, *rounds)

    broken.engine.__dict__["run"] = run
    with pytest.raises(NonFiniteError, match=r"round 2: .* the newest checkpoint has round 2"):
        go(broken)
    assert Checkpoints(tmp_path / "checkpoints").newest() == 2
    assert [json.loads(line)["round"] for line in (tmp_path / "metrics.jsonl").open()] == [0, 1, 2]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9")],
)
def test_out_of_memory_says_how_large_the_state_is(simulation, error):
    with pytest.raises(OutOfMemory, match=r"the state of 40 clients takes \d+\.\d MB"):
        with memory_explained(simulation):
            raise error
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID"):
        with memory_explained(simulation):
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: other")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on address space")
@pytest.mark.slow
def test_memory_that_runs_out_after_the_check_is_one_line(simulation, whole, tmp_path):
    """16 GB of rows are asked for at once where 12 GB, of which the libraries take some, exist."""
    model = ["--backbone=pfedrec", "--fusion=none", "--width=25600", "--memory_budget_gb=1000"]
    sizes = ["--synthetic_users=400", "--synthetic_items=400", f"--workdir={tmp_path / 'w'}"]
    command = [sys.executable, "-m", "experiments.train", *model, *sizes]
    limited = subprocess.run(
        ["sh", "-c", 'ulimit -v 12000000; exec "$@"', "sh", *command],
        # However many cores there are: an arena of addresses for each is none of the 12 GB.
        env=environment_of(MALLOC_ARENA_MAX="2"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert limited.returncode == 4, limited.stderr
    (line,) = limited.stderr.splitlines()
    assert line.startswith("error: out of memory: the state of 400 clients takes 16547.8 MB")
    # The directory is as good as new.
    go(at(simulation, tmp_path / "w"))
    assert result(tmp_path / "w") == whole


def test_a_signal_is_a_request_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.01)
            if stop.asked:
                break
        assert stop.name == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def asked_by(signals, monkeypatch):
    """(name of the first signal, status with which the process would leave at once) of signals
    that arrive one after the other."""
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    with StopRequest() as stop:
        for number in signals:
            signal.raise_signal(number)
    # At the end of the block, all that had arrived was looked at.
    return stop.name, left


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGQUIT", "SIGINT"])
def test_every_signal_of_a_session_asks_to_stop(name, monkeypatch):
    number = getattr(signal, name)
    # A shell starts background jobs, such as these tests, with some signals ignored.
    before = signal.signal(number, signal.SIG_DFL)
    # Shells, systemd and batch systems send these before, or beside, the one that counts.
    once = [number, signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1]
    insists = name in ("SIGQUIT", "SIGINT")
    once_more = [signal.SIGTERM] * (1 if insists else 2)
    try:
        assert asked_by(once, monkeypatch) == (name, [])
        assert asked_by([*once, *once_more], monkeypatch) == (name, [128 + signal.SIGTERM])
    finally:
        signal.signal(number, before)


def test_nohup_stays_in_force(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert asked_by([signal.SIGHUP], monkeypatch) == ("", [])
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "eval_every"),
    [(signal.SIGHUP, 1), pytest.param(signal.SIGINT, 50_000, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_signal_saves_and_leaves_with_its_own_status(number, eval_every, tmp_path):
    """However far the next evaluation is."""
    rounds = f"--rounds=50000 --eval_every={eval_every} --checkpoint_every=1 --patience=0".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *SMALL, *rounds, f"--workdir={tmp_path}"],
        env=environment_of(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test run under nohup, or in the background of a shell, hands ignored signals on.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    try:
        while process.poll() is None and not checkpoints.rounds():
            time.sleep(0.05)
        process.send_signal(number)
        printed = process.communicate(timeout=3600)[0]
    finally:
        process.kill()
    assert process.returncode == 75, printed
    assert f"{number.name}: saves" in printed and "the same command resumes" in printed
    evaluated = [json.loads(line)["round"] for line in (tmp_path / "metrics.jsonl").open()]
    newest = checkpoints.newest()
    assert 0 < newest < 50_000 and evaluated[-1] == (newest if eval_every == 1 else 0)


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path):
    """A limit on the size of files is met as a full disk is, and needs no disk of its own."""
    command = [sys.executable, "-m", "experiments.train", *SMALL, "--checkpoint_every=1"]
    result = subprocess.run(
        ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh", *command, f"--workdir={tmp_path / 'w'}"],
        env={**os.environ, "FEDVLR_CACHE_DIR": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "cannot save a checkpoint: File too large" in refused(result)
    assert Checkpoints(tmp_path / "w/checkpoints").rounds() == []
