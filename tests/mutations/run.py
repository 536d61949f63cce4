"""Applies faults to a copy of the package, one at a time, and says which tests find them.

    python -m tests.mutations.run                    all of them, about a quarter of an hour
    python -m tests.mutations.run --only=gate        those whose name holds "gate"
    python -m tests.mutations.run --required         those that `make test` applies

All run in one process, which keeps JAX and the operations that it has compiled. First the same
tests must pass without a fault. Exit status: 0 if at least 95 % are found and all required ones;
else 1.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
import time

# Before JAX starts, as tests/conftest.py has it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest

from tests.mutations.mutations import MUTATIONS

ROOT = pathlib.Path(__file__).parents[2]
COPIED = ("fedvlr_jax", "experiments", "benchmarks", "tests", "pyproject.toml")
AT_LEAST = 0.95


class FirstFailure:
    """A pytest plugin that remembers the test that failed first, and how many ran."""

    def __init__(self):
        self.name, self.ran = "", 0

    def pytest_runtest_logreport(self, report):
        self.ran += report.when == "call" and not report.skipped
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and not self.name:
            self.name = report.nodeid


def forget_modules():
    """The next import reads the package and its tests again."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("fedvlr_jax", "experiments", "benchmarks", "tests", "conftest"):
            del sys.modules[name]


def run_tests(tests, folder):
    """The first test that fails in the copy at `folder`, and how many ran."""
    forget_modules()
    first = FirstFailure()
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", "--no-header"]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        pytest.main([*options, *tests], plugins=[first])
    return first


def try_mutation(mutation, folder):
    """(name of the test that failed or "", seconds of the processor)."""
    path = folder / mutation.file
    original = path.read_text()
    assert original.count(mutation.old) == 1, f"{mutation.name}: its text is not there once"
    began = time.process_time()
    path.write_text(original.replace(mutation.old, mutation.new))
    try:
        first = run_tests(mutation.tests, folder)
    finally:
        path.write_text(original)
    assert first.ran or first.name, f"{mutation.name}: no test ran"
    return first.name, time.process_time() - began


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", action="append", help="part of the names; may be given several times"
    )
    parser.add_argument("--required", action="store_true", help="those that make test applies")
    arguments = parser.parse_args(argv)
    chosen = [m for m in MUTATIONS if any(part in m.name for part in arguments.only or [""])]
    if arguments.required:
        chosen = [m for m in chosen if m.required]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for part in COPIED:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, folder / part)
        os.environ.setdefault("FEDVLR_DATA_ROOT", str(ROOT.parent / "shared" / "data"))
        os.chdir(folder)
        # The copy comes first, and no installed package before it.
        sys.path[:] = [name] + [p for p in sys.path if p not in ("", str(ROOT))]
        sys.dont_write_bytecode = True
        tests = dict.fromkeys(test for mutation in chosen for test in mutation.tests)
        control = run_tests(tests, folder)
        assert control.ran and not control.name, f"without any fault fails {control.name}"
        print(f"{control.ran} tests pass without a fault", flush=True)
        survived = []
        for mutation in chosen:
            test, seconds = try_mutation(mutation, folder)
            if not test:
                survived.append(mutation)
            test = test.removeprefix("tests/") if test else "-"
            word = "found" if test != "-" else "SURVIVED"
            print(f"{word:9} {seconds:6.1f} s  {mutation.name}: {test}", flush=True)
        os.chdir(ROOT)
    found = len(chosen) - len(survived)
    print(f"{found} of {len(chosen)} found")
    failed = found < AT_LEAST * len(chosen) or any(m.required for m in survived)
    return int(failed or not chosen)


if __name__ == "__main__":
    sys.exit(main())
