"""Tests whether runs survive kills and damaged checkpoints, and measures the cost of saving.

    python -m benchmarks.survival --kills=100 --corruptions=200 --datasets=KU,ML --clients=100000

A number of 0, or an empty list, omits a part. Kills and corruptions hit a short synthetic run that
saves after every round. It must end with the bits of the same run without interruption.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path
from fedvlr_jax.commands.launching.launch import launch
from fedvlr_jax.commands.one_run.saving import Saver
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.simulation import Simulation, make_simulation
from fedvlr_jax.training import copy_state, new_run, train

FLAGS = flags.FLAGS

SHORT_RUN = [
    *("--synthetic_users=60", "--synthetic_items=80", "--width=8", "--eval_every=1"),
    *("--checkpoint_every=1", "--checkpoint_share=1", "--keep_checkpoints=3", "--patience=0"),
    "--baselines=false",
]


def short_run(workdir: Path, rounds: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-u", "-m", "experiments.train", *SHORT_RUN, f"--rounds={rounds}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for_training(run: subprocess.Popen[bytes]) -> None:
    """Waits until the run has loaded its data and starts its first round."""
    assert run.stdout is not None
    for line in run.stdout:
        if b" clients, " in line:
            return


def outcome(workdir: Path) -> tuple[Any, ...]:
    """The results of a run: its metrics, its summary without the timing, its last state."""
    summary = json.loads((workdir / "summary.json").read_text())
    for name in ("timing", "peak_rss_mb"):
        del summary[name]
    checkpoints = Checkpoints(workdir / "checkpoints")
    newest = checkpoints.newest()
    assert newest is not None
    return (workdir / "metrics.jsonl").read_bytes(), summary, contents(checkpoints, newest)


def contents(checkpoints: Checkpoints, round_number: int) -> dict[str, bytes]:
    leaves = checkpoints.load_leaves(round_number)
    return {name: leaf.tobytes() for name, leaf in leaves.items()}


def measure_kills(folder: Path, kills: int, rounds: int, rng: random.Random) -> dict[str, Any]:
    """Kills training at random moments with SIGKILL, and repeats the same command each time."""
    undisturbed = folder / "undisturbed"
    for _ in range(2):  # The second run has compiled programs, like the runs to be killed.
        shutil.rmtree(undisturbed, ignore_errors=True)
        run = short_run(undisturbed, rounds)
        wait_for_training(run)
        began = time.perf_counter()
        run.communicate()
        duration = time.perf_counter() - began
    expected = outcome(undisturbed)
    killed = starts = failed = runs = exact = 0
    workdir = folder / "killed"
    while killed < kills or workdir.exists():
        run = short_run(workdir, rounds)
        wait_for_training(run)
        if killed < kills:
            try:
                run.communicate(timeout=rng.uniform(0, duration))
            except subprocess.TimeoutExpired:
                run.kill()
        run.communicate()
        starts += 1
        if run.returncode == -signal.SIGKILL:
            killed += 1
            continue
        if run.returncode == 0:
            runs += 1
            exact += outcome(workdir) == expected
        else:
            failed += 1
        shutil.rmtree(workdir)
    return {
        "kills": killed,
        "starts": starts,
        "failed starts": failed,
        "finished runs": runs,
        "bit-exact": exact,
    }


def _some_file(step: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(p for p in step.rglob("*") if p.is_file() and p.stat().st_size))


def _flip(step: Path, rng: random.Random) -> None:
    path = _some_file(step, rng)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _truncate(step: Path, rng: random.Random) -> None:
    path = _some_file(step, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def _delete(step: Path, rng: random.Random) -> None:
    victim = rng.choice(sorted(step.rglob("*")))
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()


def _zero(step: Path, rng: random.Random) -> None:
    path = _some_file(step, rng)
    path.write_bytes(bytes(path.stat().st_size))


def _swap(step: Path, rng: random.Random) -> None:
    first, second = _some_file(step, rng), _some_file(step, rng)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def _from_another_step(step: Path, rng: random.Random) -> None:
    other = rng.choice(sorted(p for p in step.parent.iterdir() if p != step))
    name = _some_file(other, rng).relative_to(other)
    (step / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(other / name, step / name)


def _empty_directory(step: Path, rng: random.Random) -> None:
    (step.parent / f"round_{rng.randrange(10**8):08d}").mkdir(exist_ok=True)


def _stray_directory(step: Path, rng: random.Random) -> None:
    stray = step.parent / f"round_{rng.randrange(10**8):08d}"
    shutil.copytree(step, stray, dirs_exist_ok=True)


def _renamed_step(step: Path, rng: random.Random) -> None:
    other = rng.choice(sorted(p for p in step.parent.iterdir() if p != step))
    aside = step.with_name("aside")
    step.rename(aside)
    other.rename(step)
    aside.rename(other)


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "bit flip": _flip,
    "truncation": _truncate,
    "deletion": _delete,
    "zeroing": _zero,
    "two files swapped": _swap,
    "file of another step": _from_another_step,
    "empty directory": _empty_directory,
    "stray directory": _stray_directory,
    "two steps swapped": _renamed_step,
}


def damage_once(source: Path, folder: Path, kind: str, rng: random.Random) -> str:
    """Damages a copy of checkpoints once. Returns "detected", "harmless" or "silent"."""
    pristine = Checkpoints(source)
    copy = folder / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    damaged = Checkpoints(copy)
    newest = pristine.rounds()[-1]
    DAMAGE[kind](damaged.path(newest), rng)
    noticed: list[str] = []
    found = damaged.newest(noticed.append)
    if found is not None and contents(damaged, found) != contents(pristine, found):
        return "silent"
    if found == newest:
        return "harmless"
    return "detected" if noticed else "silent"


def measure_corruptions(
    source: Path, folder: Path, count: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Does `count` damages, every kind in turn."""
    rows: list[dict[str, Any]] = [
        {"damage": kind, "detected": 0, "harmless": 0, "silent": 0} for kind in DAMAGE
    ]
    for number in range(count):
        row = rows[number % len(rows)]
        row[damage_once(source, folder, row["damage"], rng)] += 1
    return rows


def cpu_seconds() -> float:
    """CPU seconds of all threads of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Counted(Checkpoints):
    """Checkpoints that count their saves."""

    saves = 0

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.saves += 1
        super().save(*args, **kwargs)


def timed_run(simulation: Simulation, folder: Path, *, saves: bool) -> tuple[float, float, int]:
    """(seconds, CPU seconds, saves) of one run, including the end of the last save."""
    checkpoints = Counted(folder / "price", keep=2, keep_best=1)
    run = new_run(simulation)
    saver = Saver(simulation, checkpoints, run)
    began, began_cpu = time.perf_counter(), cpu_seconds()
    if saves:
        run, _ = train(simulation, run, on_rounds=saver.after_rounds)
        saver.finish(run)
    else:
        train(simulation, run)
    spent = time.perf_counter() - began, cpu_seconds() - began_cpu
    checkpoints.clear()
    return *spent, checkpoints.saves


def measure_overhead(name: str, folder: Path, seconds: float, repeats: int) -> list[dict[str, Any]]:
    """Compares a run of about `seconds` with a checkpoint every ten rounds, and without.

    One row has the default --checkpoint_share, one has 1. Runs with and without checkpoints
    alternate in pairs, and every other pair has the reverse order, so that changes of the machine's
    load affect both alike. The rows have the medians of the ratios of the pairs.
    """
    dataset = load_dataset(name, data_root=FLAGS.data_root)

    def simulate(rounds: int, share: float) -> Simulation:
        saving = {"checkpoint_every": 10, "checkpoint_share": share, "init": "random"}
        options = {"eval_every": 10, "patience": 0, "baselines": False}
        return make_simulation(Config.from_flat(rounds=rounds, **saving, **options), dataset)

    trial = simulate(20, 1.0)
    timed_run(trial, folder, saves=False)  # Compiles.
    rounds = 10 * max(2, round(2 * seconds / timed_run(trial, folder, saves=False)[0]))
    rows = []
    for share in (Config().run.checkpoint_share, 1.0):
        simulation = simulate(rounds, share)
        spent: dict[bool, list[tuple[float, float, int]]] = {False: [], True: []}
        timed_run(simulation, folder, saves=True)  # Compiles.
        for repeat in range(repeats):
            for saves in (False, True) if repeat % 2 else (True, False):
                spent[saves].append(timed_run(simulation, folder, saves=saves))
        runs = {saves: np.array(spent[saves]) for saves in spent}
        ratios = runs[True][:, :2] / runs[False][:, :2]
        (ratio, cpu_ratio), (low, _), (high, _) = np.percentile(ratios, (50, 25, 75), axis=0)
        without, with_saves = np.median(runs[False], axis=0), np.median(runs[True], axis=0)
        rows.append(
            {
                "dataset": name,
                "state_mb": trial.state_bytes / 1e6,
                "rounds": rounds,
                "share": share,
                "saves": float(with_saves[2]),
                "without_s": float(without[0]),
                "with_s": float(with_saves[0]),
                "ratio": float(ratio),
                "from": float(low),
                "to": float(high),
                "cpu_ratio": float(cpu_ratio),
            }
        )
    return rows


def measure_large_state(clients: int, folder: Path) -> dict[str, Any]:
    """Seconds and bytes of one checkpoint of FCF + bilevel of width 8, router 8."""
    sizes = {"users": clients, "items": 1000, "mean_history": 5}
    dataset = load_dataset("synthetic", synthetic=sizes)
    simulation = make_simulation(Config.from_flat(init="random", width=8, router_hidden=8), dataset)
    state = simulation.init()
    # The best state differs from the state, as after most evaluations of a long run.
    tree = {"state": simulation.pack(state), "best": simulation.pack(copy_state(state))}
    checkpoints = Checkpoints(folder / "large")
    began = time.perf_counter()
    checkpoints.save(0, tree, {})
    blocked = time.perf_counter() - began
    checkpoints.wait()
    saved = time.perf_counter() - began
    size = sum(p.stat().st_size for p in checkpoints.path(0).rglob("*") if p.is_file())
    packed = simulation.packed_shapes(checkpoints.read_meta(0)["leaves"], "state")
    fresh = Checkpoints(folder / "large")
    began = time.perf_counter()
    restored = fresh.load(0, {"state": packed, "best": packed})
    jax.block_until_ready(restored)
    restore = time.perf_counter() - began
    same = all(
        np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves(restored["state"]["private"]),
            jax.tree.leaves(tree["state"]["private"]),
            strict=True,
        )
    )
    return {
        "clients": clients,
        "state_mb": simulation.state_bytes / 1e6,
        "file_mb": size / 1e6,
        "training_waits_s": blocked,
        "save_s": saved,
        "restore_s": restore,
        "same": same,
    }


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(*cells)
    Console(width=160).print(table)


def main() -> None:
    rng = random.Random(FLAGS.seed)
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="survival-") as name:
        folder = Path(name)
        if FLAGS.kills:
            results["SIGKILL"] = [measure_kills(folder, FLAGS.kills, FLAGS.rounds, rng)]
            show("SIGKILL at random moments of training", results["SIGKILL"])
        if FLAGS.corruptions:
            if not (folder / "undisturbed").exists():
                short_run(folder / "undisturbed", 5).communicate()
            source = folder / "undisturbed/checkpoints"
            rows = measure_corruptions(source, folder, FLAGS.corruptions, rng)
            total = {key: sum(row[key] for row in rows) for key in list(rows[0])[1:]}
            results["corruptions"] = [*rows, {"damage": "all", **total}]
            show("Damage to the newest of three checkpoints", results["corruptions"])
        if FLAGS.datasets:
            results["overhead"] = [
                row
                for name in FLAGS.datasets.split(",")
                for row in measure_overhead(name, folder, FLAGS.overhead_seconds, FLAGS.repeats)
            ]
            show("--checkpoint_every=10 against no checkpoint", results["overhead"])
        if FLAGS.clients:
            results["large state"] = [measure_large_state(FLAGS.clients, folder)]
            show("One checkpoint: state and best state", results["large state"])
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    flags.DEFINE_integer("kills", 0, "Number of SIGKILLs.")
    flags.DEFINE_integer("rounds", 60, "Number of rounds of the killed run.")
    flags.DEFINE_integer("corruptions", 90, "Number of damages to checkpoints.")
    flags.DEFINE_string("datasets", "", "Data sets for the cost of saving, such as KU,ML.")
    define_config_flags("data", only=("data_root",))
    flags.DEFINE_float("overhead_seconds", 7.0, "Approximate seconds of one timed run.")
    flags.DEFINE_integer(
        "repeats", 5, "Number of pairs of timed runs. The table shows medians and quartiles."
    )
    flags.DEFINE_integer("clients", 0, "Number of clients of the large state, such as 100000.")
    flags.DEFINE_integer("seed", 0, "Seed of the moments and the damages.")
    define_path("json", "", "JSON file for the rows.")
    launch(main, __doc__)
