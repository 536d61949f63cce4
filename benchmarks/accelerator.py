"""Measures one accelerator: correctness, speed and memory, the most important parts first.

    python -m benchmarks.accelerator --json=accelerator.json --page=accelerator.md

Run it in the repository's root. It installs and downloads nothing. After --seconds no new part
starts. If a part fails, the page reports it and the other parts run:

1. Every plan against the NumPy reference of the tests, in float64.
2. KU, ML and a synthetic data set: seconds per round with float32, tf32 and bf16 operands, as
   fractions of the FLOP/s and the bandwidth that the same process measures.
3. A large population with cohorts of 1 %.
4. Whether two runs give the same bits, whether JAX reuses the donated state, and how many score
   arrays [clients, items] a round holds.
5. The boundary between the parts of a round as a branch and as a barrier: see
   `separate_compilation.compiled_alone`.

It also runs on a CPU; give smaller sizes there.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks.datasets import named_dataset
from benchmarks.rounds import ceilings, measure
from fedvlr_jax.commands.launching.config_flags import define_path
from fedvlr_jax.commands.launching.launch import launch
from fedvlr_jax.commands.launching.messages import one_line
from fedvlr_jax.commands.one_run.runs import describe_code
from fedvlr_jax.config import DATA_ROOT, Config
from fedvlr_jax.config.federation import PRECISION_NAMES
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated import separate_compilation
from fedvlr_jax.report.atomic_files import replace_file
from fedvlr_jax.settings import SETTINGS
from fedvlr_jax.simulation import make_simulation

FLAGS = flags.FLAGS
DATA_FOLDERS = (DATA_ROOT, "../shared/data", "shared/data")
BOUNDARIES = ("branch", "barrier")

Row = dict[str, Any]


def check_plans() -> Iterator[Row]:
    """Compares one federation of the tests per plan with the reference, in the tests' tolerance."""
    try:
        federations = importlib.import_module("tests.oracle.federations").federations
        compare = importlib.import_module("tests.oracle.test_agreement").compare
    except ImportError as error:
        raise InputError(f"the tests were not found ({error}); run it in the repository") from None
    chosen = {choices["plan"]: number for number, choices in enumerate(federations())}
    before, SETTINGS["jax_enable_x64"] = SETTINGS["jax_enable_x64"], True
    try:
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            for plan, number in sorted(chosen.items()):
                began = time.perf_counter()
                compare(number, federations()[number])
                yield {"plan": plan, "agrees": True, "seconds": time.perf_counter() - began}
    finally:
        SETTINGS["jax_enable_x64"] = before


def time_rounds(names: Iterable[str], data_root: str, machine: Row) -> Iterator[Row]:
    """FCF + bilevel on each data set, for each precision of the operands."""
    for name in names:
        dataset = named_dataset("datasets", name, data_root)
        for precision in PRECISION_NAMES:
            config = Config.from_flat(
                protocol="paper", init="random", matmul_precision=precision
            ).resolved
            try:
                row = measure(config, dataset, rounds=5, repeats=5)
            except InputError as error:
                yield {"dataset": name, "precision": precision, "left_out": one_line(error)}
                continue
            finally:
                _forget()
            shares = {
                "share_of_flops": row["flops"] / row["round_s"] / machine["flops_per_s"],
                "share_of_bytes": row["bytes"] / row["round_s"] / machine["bytes_per_s"],
            }
            kept = ("clients", "items", "plan", "compile_s", "round_s", "eval_s", "ndcg@50")
            row = {"dataset": name, "precision": precision, **{k: row[k] for k in kept}}
            yield row | shares


def time_population(users: int, items: int) -> Iterator[Row]:
    """Times rounds with cohorts of 1 % of a large population, for both kinds of negatives."""
    sizes = {"users": users, "items": items, "mean_history": 20}
    began = time.perf_counter()
    dataset = named_dataset("population", f"synthetic:{users}:{items}", "")
    generated = time.perf_counter() - began
    for negatives in ("sampled", "expected"):
        config = Config.from_flat(
            cohort=max(1, users // 100), negatives=negatives, router_hidden=8, baselines=False
        )
        simulation = make_simulation(config, dataset)
        state = simulation.init()
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            state, metrics = simulation.run_rounds(state, 1)
            seconds.append(time.perf_counter() - began)
        cohort = int(metrics.participants[-1])
        row = {"clients": users, "items": sizes["items"], "cohort": cohort, "plan": simulation.plan}
        round_s = float(np.median(seconds[1:]))
        row |= {"negatives": negatives, "generate_s": generated, "first_round_s": seconds[0]}
        yield row | {"round_s": round_s, "client_round_us": 1e6 * round_s / cohort}
        del state, simulation
        _forget()


def check_memory(dataset: Dataset) -> Iterator[Row]:
    """Checks bits and donation, and measures the working memory of a round with all clients."""
    config = Config.from_flat(protocol="paper", init="random").resolved
    simulation = make_simulation(config, dataset)

    def run() -> list[bytes]:
        state, _ = simulation.run_rounds(simulation.init(), 5)
        leaves = jax.tree.leaves((state.server.shared, state.server.optimizer, state.private))
        return [np.asarray(leaf).tobytes() for leaf in leaves]

    yield {"what": "two runs give the same bits", "found": run() == run()}
    state = simulation.init()
    given = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    simulation.run_rounds(state, 1)
    reused = sum(leaf.is_deleted() for leaf in given)
    yield {"what": "leaves of the state that were donated", "found": f"{reused} of {len(given)}"}

    schedule = simulation.sampling.schedule(0, 0, 1, 1)
    population = simulation.on_device.population_with(config.federation.rates)
    inputs = simulation.init(), population, schedule
    program = simulation.on_device.run.__wrapped__.lower(*inputs, 1, 1).compile()
    memory = program.memory_analysis()
    scores = 4 * dataset.num_users * dataset.num_items
    yield {"what": "bytes of the output that reuse the input", "found": memory.alias_size_in_bytes}
    yield {"what": "bytes of working memory", "found": memory.temp_size_in_bytes}
    arrays = memory.temp_size_in_bytes / scores
    yield {"what": "the same in arrays of [clients, items]", "found": round(arrays, 2)}


def time_boundaries(dataset: Dataset) -> Iterator[Row]:
    """Seconds per round with each kind of boundary, alternating."""
    config = Config.from_flat(protocol="paper", init="random").resolved
    simulations: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in BOUNDARIES}
    states: dict[str, Any] = {}
    backend = jax.default_backend()
    before = separate_compilation.BOUNDARY.get(backend)
    try:
        for name in BOUNDARIES:
            separate_compilation.BOUNDARY[backend] = name
            simulations[name] = make_simulation(config, dataset)
            states[name], _ = simulations[name].run_rounds(simulations[name].init(), 5)
        for _ in range(7):
            for name in BOUNDARIES:
                began = time.perf_counter()
                states[name], _ = simulations[name].run_rounds(states[name], 5)
                seconds[name].append((time.perf_counter() - began) / 5)
    finally:
        separate_compilation.BOUNDARY.pop(backend)
        if before is not None:
            separate_compilation.BOUNDARY[backend] = before
    leaf = lambda name: np.asarray(states[name].server.shared["items"]).tobytes()
    same = leaf(BOUNDARIES[0]) == leaf(BOUNDARIES[1])
    for name in BOUNDARIES:
        yield {"boundary": name, "round_s": float(np.median(seconds[name])), "same_bits": same}


def _forget() -> None:
    jax.clear_caches()
    gc.collect()


def run_part(title: str, rows: Callable[[], Iterator[Row]], ends: float) -> Row:
    """{"title", "rows", "seconds", "problem"}. Keeps the rows that the part yielded before a
    problem."""
    part: Row = {"title": title, "rows": [], "problem": ""}
    began = time.perf_counter()
    if began >= ends:
        return part | {"seconds": 0.0, "problem": "no time was left; raise --seconds"}
    try:
        for row in rows():
            part["rows"].append(row)
            if time.perf_counter() >= ends:
                part["problem"] = "stopped here: no time was left; raise --seconds"
                break
    except Exception as error:  # noqa: BLE001 (a page with a fault is better than none)
        part["problem"] = f"{type(error).__name__}: {one_line(error)[:500]}"
    _forget()
    print(f"{title}: {len(part['rows'])} rows {part['problem']}", flush=True)
    return part | {"seconds": time.perf_counter() - began}


def page_of(result: Row) -> str:
    """The Markdown page."""
    machine = result["machine"]
    versions, flops, moved = result["versions"], machine["flops_per_s"], machine["bytes_per_s"]
    lines = [
        "# Measurements of one accelerator",
        "",
        (
            f"{result['device']}, jax {versions['jax']}, commit {result['commit']}. Measured in "
            f"the same process: a product of large float32 matrices {flops / 1e12:.2f} TFLOP/s, a "
            f"copy {moved / 1e9:.0f} GB/s."
        ),
        "",
        "    " + result["command"],
    ]
    for part in result["parts"]:
        lines += ["", f"## {part['title']}", ""]
        names = list(dict.fromkeys(name for row in part["rows"] for name in row))
        if names:
            lines += [_row(names), _row(["---"] * len(names))]
            lines += [_row([_cell(row.get(name, "")) for name in names]) for row in part["rows"]]
        if part["problem"]:
            lines += ["", f"Not complete: {part['problem']}"]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def main() -> None:
    ends = time.perf_counter() + FLAGS.seconds
    root = FLAGS.data_root or next((f for f in DATA_FOLDERS if os.path.isdir(f)), DATA_FOLDERS[0])
    names = FLAGS.datasets.split(",")
    users, items = (int(n) for n in FLAGS.population.split(":"))
    machine = ceilings()
    last = lambda: named_dataset("datasets", names[-1], root)
    parts = [
        run_part("Every plan against the reference", check_plans, ends),
        run_part("Rounds", lambda: time_rounds(names, root, machine), ends),
        run_part("A large population", lambda: time_population(users, items), ends),
        run_part("Bits and memory", lambda: check_memory(last()), ends),
        run_part("A branch or a barrier", lambda: time_boundaries(last()), ends),
    ]
    result = {**describe_code(), "machine": machine, "parts": parts}
    replace_file(Path(FLAGS.json), json.dumps(result, indent=2).encode())
    replace_file(Path(FLAGS.page), page_of(result).encode())
    print(f"{FLAGS.json}, {FLAGS.page}")


if __name__ == "__main__":
    flags.DEFINE_string(
        "datasets",
        "KU,ML,synthetic:100000:10000",
        "Data sets, comma-separated, the smallest first.",
    )
    flags.DEFINE_string("population", "1000000:100000", "USERS:ITEMS of the large population.")
    define_path("data_root", "", "Folder of the data sets. Empty: searched in known places.")
    flags.DEFINE_float("seconds", 480.0, "Seconds after which no part and no row starts.")
    define_path("json", "accelerator.json", "File for the numbers.")
    define_path("page", "accelerator.md", "File for the page.")
    launch(main, __doc__)
