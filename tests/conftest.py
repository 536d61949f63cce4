import gc
import json
import os
import pathlib
import warnings

from tests.programs import QUICK_COMPILATION, Programs, folder_of_programs, store_programs

# Before JAX starts.
os.environ.setdefault("XLA_FLAGS", QUICK_COMPILATION)
# Before NumPy starts: matrices are small, and threads that wait for a part of one use a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import jax
import pytest

# Nothing relies on JAX to match types or ranks.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled programs stay between test runs.
store_programs(folder_of_programs())

ROOT = pathlib.Path(__file__).parents[1]
DATA = pathlib.Path(os.environ.get("FEDVLR_DATA_ROOT", ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(items):
    """The longest first, so that no worker waits at the end for the test of another."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
    """What the imports made stays to the end, so later collections of garbage leave it out."""
    gc.collect()
    gc.freeze()
    # Tracing allocates millions of small objects, few of them in cycles.
    gc.set_threshold(50_000, 20, 50)


def mostly_slow(cases, every):
    """One case of each `every` is for `make test`; the others are marked slow."""
    return [
        pytest.param(*_tuple(case), marks=[pytest.mark.slow] if place % every else [])
        for place, case in enumerate(cases)
    ]


def _tuple(case):
    return case if isinstance(case, tuple) else (case,)


@pytest.fixture(scope="session")
def programs():
    """Runs modules as programs; see `Programs.run`."""
    server = Programs()
    yield server
    server.close()


@pytest.fixture
def printed_json(programs):
    """printed_json("module", "argument"): what the program prints, run with XLA_FLAGS of its own.

    They hold for a process.
    """

    def printed_json(module, *arguments, xla_flags=""):
        result = programs.run(module, *arguments, XLA_FLAGS=xla_flags)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return printed_json


@pytest.fixture(scope="module")
def undrawn():
    """Figures are built but not drawn: for runs whose pages nobody looks at."""
    empty = lambda figure, file, **options: file.write('<svg viewBox="0 0 1 1"></svg>')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", empty)
        yield


@pytest.fixture
def double_precision(monkeypatch):
    """Everything of the test runs in float64; indices may then be of two widths."""
    # Not at the top: tests that do not need the package do not import it.
    from fedvlr_jax.settings import SETTINGS

    monkeypatch.setitem(SETTINGS, "jax_enable_x64", True)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        # The metrics of a round and the numbers of items keep their 32 bits.
        warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
        yield


@pytest.fixture
def data_root():
    """The folder of the real data sets; skips where it is absent."""
    if not (DATA / "KU").is_dir():
        pytest.skip(f"no data sets in {DATA}; FEDVLR_DATA_ROOT names another folder")
    return DATA
