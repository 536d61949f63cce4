"""A run that is killed at any change of its directory goes on to the same bits.

A kill leaves the directory as it is at that moment. So one run suffices: an audit hook sees every
change that Python makes in the directory, and copies the directory before each of them.
"""

import contextlib
import os
import random
import shutil
import sys
import threading

import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.simulation import make_simulation
from tests.experiments.test_interruption import go, result

pytestmark = pytest.mark.usefixtures("undrawn")

KILLS, ROUNDS = 20, 6
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
PLAIN = dict(fusion="none", width=4, local_epochs=2, rounds=ROUNDS, eval_every=2, baselines=False)
PLAIN |= dict(checkpoint_every=1, checkpoint_share=1.0, cohort=12)
RUNS = {
    "buffer": dict(buffer=5, max_staleness=3, min_local_epochs=1, participation="uniform"),
    "attack": dict(
        attack="pieck_uea",
        aggregation="multi_krum",
        participation="diurnal",
        deadline_s=600.0,
        defense_similarity=1.0,
        defense_items=5,
    ),
}


def copied(source, target):
    """Copies a file. The library that writes arrays may remove its own before the copy."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)


class Changes:
    """Copies a folder before every change of it, to `copies`/0, 1, ..."""

    def __init__(self, folder, copies):
        self.folder, self.copies = str(folder), copies
        self.count, self.active, self._busy = 0, False, False
        self._lock = threading.RLock()
        sys.addaudithook(self._see)

    def __enter__(self):
        self.active = True
        return self

    def __exit__(self, *_):
        self.active = False  # A hook cannot be removed.

    def _see(self, event, arguments):
        if not self.active or not (event in CHANGES or event == "open"):
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self.folder):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        # Other threads wait here, so that nothing changes while the folder is copied.
        with self._lock:
            if not self._busy:
                self._busy = True
                self._copy()
                self._busy = False

    def _copy(self):
        if os.path.isdir(self.folder):
            shutil.copytree(self.folder, self.copies / str(self.count), copy_function=copied)
            self.count += 1


@pytest.fixture
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.long
@pytest.mark.slow
def test_twenty_kills_cost_no_bit(kind, dataset, tmp_path):
    folder, kept = tmp_path / "w", {}

    def simulate():
        config = Config.from_flat(**PLAIN, **RUNS[kind], workdir=str(folder))
        simulation = make_simulation(config, dataset)
        # What is compiled serves all runs; the clock is a new one each time.
        kept.setdefault("engine", simulation.engine)
        for name in ("run", "evaluate", "_recommend"):
            simulation.engine.__dict__[name] = getattr(kept["engine"], name)
        return simulation

    with Changes(folder, tmp_path / "killed") as changes:
        go(simulate())
    expected = result(folder)
    assert changes.count > 3 * KILLS
    for moment in sorted(random.Random(3).sample(range(changes.count), KILLS)):
        shutil.rmtree(folder)
        (tmp_path / "killed" / str(moment)).rename(folder)
        go(simulate())
        assert result(folder) == expected, moment
