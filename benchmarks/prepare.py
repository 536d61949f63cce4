"""Compares the time and memory of `prepare` with only reading the same file.

    python -m benchmarks.prepare --rows=1000000,10000000
    python -m benchmarks.prepare --rows=100000000 --folder=/data/scratch

For each size the benchmark generates a CSV file in the form of Amazon Reviews: text ids in random
order, 20 interactions per user. The reader is the data frame library of `prepare`, which streams
the same columns with the same types; if pyarrow is installed, its streaming reader too. Each
measurement has its own process, and so its own peak memory. A hundred million rows need 8 GB of
disk. The benchmark removes the files.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from absl import flags
from rich.console import Console
from rich.table import Table

from fedvlr_jax.commands.launching.config_flags import define_path, whole_numbers
from fedvlr_jax.commands.launching.launch import launch
from fedvlr_jax.errors import InputError
from fedvlr_jax.machine import peak_rss_mb
from fedvlr_jax.prepare import prepare

FLAGS = flags.FLAGS
MEAN_HISTORY = 20
USERS_AN_ITEM = 400
_CHUNK = 5_000_000
_TEXTS = {"user_id": pl.String, "parent_asin": pl.String}


def generate(path: Path, rows: int) -> None:
    """Writes `rows` interactions in chunks. Popular items and active users occur more often."""
    draw = np.random.default_rng(0)
    users, items = max(10, rows // MEAN_HISTORY), max(10, rows // USERS_AN_ITEM)
    with path.open("wb") as file:
        for start in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - start)
            user = (draw.random(count) ** 1.5 * users).astype(np.int64)
            item = (draw.random(count) ** 2 * items).astype(np.int64)
            frame = pl.DataFrame(
                {
                    # Spread over ten digits, so that ids do not increase with activity.
                    "user": user * 2654435761 % 2**32,
                    "item": item,
                    "rating": draw.integers(1, 6, count).astype(float),
                    "timestamp": 1_500_000_000_000 + draw.integers(0, 10**11, count),
                }
            )
            frame = frame.select(
                pl.concat_str(pl.lit("AE"), _padded("user", 10), pl.lit("Q")).alias("user_id"),
                pl.concat_str(pl.lit("B0"), _padded("item", 8)).alias("parent_asin"),
                "rating",
                "timestamp",
            )
            frame.write_csv(file, include_header=not start)


def _padded(column: str, width: int) -> pl.Expr:
    return pl.col(column).cast(pl.String).str.zfill(width)


def read_with_polars(path: Path) -> int:
    batches = pl.scan_csv(path, schema_overrides=_TEXTS).collect_batches(maintain_order=True)
    return sum(batch.height for batch in batches)


def read_with_pyarrow(path: Path) -> int:
    import pyarrow
    from pyarrow import csv

    types = {name: pyarrow.string() for name in _TEXTS}
    options = csv.ConvertOptions(column_types=types)
    return sum(batch.num_rows for batch in csv.open_csv(path, convert_options=options))


def prepare_it(path: Path) -> int:
    return prepare(path, path.with_name("prepared"), overwrite=True).steps[0].interactions


WORK: dict[str, Callable[[Path], int]] = {
    "polars": read_with_polars,
    "pyarrow": read_with_pyarrow,
    "prepare": prepare_it,
}


def measure(what: str, path: Path) -> dict[str, Any]:
    """Seconds, CPU seconds and peak memory of one piece of work, in this process."""
    usage = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    began, cpu = time.perf_counter(), usage()
    rows = WORK[what](path)
    seconds = time.perf_counter() - began
    return {"rows": rows, "s": seconds, "cpu_s": usage() - cpu, "peak_mb": peak_rss_mb()}


def in_its_own_process(what: str, path: Path) -> dict[str, Any] | None:
    """What `measure` gives; None where the reader is not installed."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.prepare", f"--what={what}", f"--file={path}"],
        capture_output=True,
        check=False,
        text=True,
    )
    if what == "pyarrow" and "No module named 'pyarrow'" in result.stderr:
        return None
    if result.returncode:
        last = result.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"{what}: {last[-1].removeprefix('error: ')}")
    return json.loads(result.stdout.splitlines()[-1])


def compare(rows: int) -> list[dict[str, Any]]:
    """One row a reader, and one for `prepare` with its ratio to each of them."""
    with tempfile.TemporaryDirectory(dir=FLAGS.folder or None) as folder:
        path = Path(folder) / "Toy.csv"
        generate(path, rows)
        size_mb = path.stat().st_size / 1e6
        found = {what: in_its_own_process(what, path) for what in WORK}
    measured = [{"what": w, "file_mb": size_mb, **m} for w, m in found.items() if m is not None]
    for row in measured:
        row["times"] = measured[-1]["s"] / row["s"]
    return measured


def show(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="prepare and bare readers")
    columns = {
        "rows": "{rows:,}",
        "file MB": "{file_mb:,.0f}",
        "what": "{what}",
        "s": "{s:.1f}",
        "CPU s": "{cpu_s:.1f}",
        "peak RSS MB": "{peak_mb:,.0f}",
        "prepare / this": "{times:.2f}",
    }
    for name in columns:
        table.add_column(name, justify="left" if name == "what" else "right")
    for row in rows:
        table.add_row(*(cell.format(**row) for cell in columns.values()))
    return table


def main() -> None:
    if FLAGS.what:
        print(json.dumps(measure(FLAGS.what, Path(FLAGS.file))))
        return
    rows = [row for count in whole_numbers("rows", FLAGS.rows) for row in compare(count)]
    Console(width=120).print(show(rows))
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    flags.DEFINE_string("rows", "1000000,10000000", "Numbers of rows, comma-separated.")
    define_path("folder", "", "Folder of the generated files. Empty: a temporary folder.")
    flags.DEFINE_enum("what", "", ["", *WORK], "Internal: measures this and prints its JSON.")
    define_path("file", "", "Internal: file that --what reads.")
    define_path("json", "", "JSON file for the rows.")
    launch(main, __doc__)
