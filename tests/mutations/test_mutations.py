"""The list of faults is up to date, and the required ones are found."""

import collections
import os
import pathlib
import subprocess
import sys

import pytest

from tests.mutations.mutations import MUTATIONS

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_it_can_be_applied(mutation):
    text = (ROOT / mutation.file).read_text()
    assert text.count(mutation.old) == 1
    assert mutation.new != mutation.old
    compile(text.replace(mutation.old, mutation.new), mutation.file, "exec")
    for test in mutation.tests:
        assert (ROOT / test.split("::")[0]).is_file()


def test_there_are_many_and_each_has_a_name():
    names = collections.Counter(mutation.name for mutation in MUTATIONS)
    assert len(names) >= 60 and max(names.values()) == 1


@pytest.mark.long
@pytest.mark.slow
def test_the_required_ones_are_found():
    """The same tests run without a fault in the same call of pytest."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.mutations.run", "--required", "--passing"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
