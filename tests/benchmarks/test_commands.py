"""Every benchmark runs to its table, at its smallest sizes."""

import json

import pytest


@pytest.fixture
def benchmark(programs, tmp_path):
    """benchmark("rounds", "--repeats=1"): its result, and the rows that it wrote in an empty
    folder."""

    def benchmark(module, *arguments):
        arguments = *arguments, "--json=rows.json"
        result = programs.run(f"benchmarks.{module}", *arguments, cwd=tmp_path)
        written = tmp_path / "rows.json"
        return result, json.loads(written.read_text()) if written.exists() else None

    return benchmark


@pytest.mark.slow
def test_rounds(benchmark):
    result, written = benchmark(
        "rounds",
        "--datasets=synthetic:20:60",
        "--combinations=fcf+none,fedavg+mlp",
        "--rounds=1",
        "--repeats=1",
    )
    assert result.returncode == 0, result.stderr
    assert written["machine"]["flops_per_s"] > 0
    assert [(row["backbone"], row["fusion"]) for row in written["rows"]] == [
        ("fcf", "none"),
        ("fedavg", "mlp"),
    ]
    for row in written["rows"]:
        assert row["clients"] == 20 and row["items"] == 60
        assert row["round_s"] > 0 and row["flops"] > 0


@pytest.mark.long
@pytest.mark.slow
def test_peers(benchmark):
    result, rows = benchmark("peers", "--dataset=synthetic:20:60", "--repeats=1")
    assert result.returncode == 0, result.stderr
    assert [row["negatives"] for row in rows] == ["sampled", "expected"]
    assert all(row[name] > 0 for row in rows for name in ("literal", "loop", "vmap", "simulation"))


@pytest.mark.slow
def test_clock(benchmark):
    arguments = ("--clients=200", "--items=60", "--cohort=5", "--rounds=2", "--fusion=none")
    result, rows = benchmark("clock", *arguments)
    assert result.returncode == 0, result.stderr
    assert rows["plain"]["clients"] == 5 >= rows["clock"]["clients"] > 0
    assert all(row["cpu_seconds"] > 0 for row in rows.values())


@pytest.mark.slow
def test_scaling(benchmark):
    result, rows = benchmark(
        "scaling", "--clients=20,30", "--items=60", "--cohort=10", "--rounds=1"
    )
    assert result.returncode == 0, result.stderr
    assert [(row["clients"], row["cohort"]) for row in rows] == [(20, 10), (30, 10)]


@pytest.mark.long
@pytest.mark.slow
def test_accelerator(benchmark, tmp_path):
    """From the repository's root, for it runs the reference of the tests."""
    page = tmp_path / "page.md"
    sizes = ["--datasets=nothing,synthetic:20:60", "--population=300:60", f"--page={page}"]
    result, written = benchmark("accelerator", *sizes)
    assert result.returncode == 0, result.stderr
    plans, rounds, population, checks, boundaries = written["parts"]
    assert [row["plan"] for row in plans["rows"]] == ["catalogue", "dense", "factored", "gathered"]
    assert plans["problem"] == "" and all(row["agrees"] for row in plans["rows"])
    assert rounds["rows"] == [] and rounds["problem"].startswith("InputError: ")
    assert [row["cohort"] for row in population["rows"]] == [3, 3]
    found = {row["what"]: row["found"] for row in checks["rows"]}
    assert found["two runs give the same bits"] is True
    donated, given = found["leaves of the state that were donated"].split(" of ")
    assert donated == given
    assert [row["boundary"] for row in boundaries["rows"]] == ["branch", "barrier"]
    text = page.read_text()
    assert "Not complete: InputError" in text and "| branch |" in text


@pytest.mark.parametrize("size", ["synthetic:a:b", "synthetic:1:2:3", "KU:3", "synthetic:0"])
def test_a_size_that_is_none(benchmark, size):
    result, written = benchmark("peers", f"--dataset={size}")
    assert result.returncode == 2 and written is None
    assert result.stderr.startswith("error: --dataset=") and result.stderr.count("\n") == 1


@pytest.mark.slow
def test_prepare(benchmark, tmp_path):
    result, rows = benchmark("prepare", "--rows=3000", f"--folder={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert rows[0]["what"] == "polars" and rows[-1]["what"] == "prepare"
    assert all(row["rows"] == 3000 and row["peak_mb"] > 0 for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
