import json
import os
import pathlib
import subprocess
import sys
import warnings

# Before JAX starts: the tests compile hundreds of tiny programs once and run them once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

# Nothing relies on JAX to match types or ranks.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def _keep_compiled_programs():
    """Compiled programs stay between test runs, in a subfolder of the commands' cache.

    Without such a folder, or if it cannot be written, nothing is stored.
    """
    # The runner of the mutations imports the package again for each of them, so not at the top.
    from fedvlr_jax.cache import cache_folder
    from fedvlr_jax.errors import InputError

    try:
        folder = cache_folder()
    except (RuntimeError, OSError, InputError):
        folder = ""
    if folder:
        jax.config.update("jax_compilation_cache_dir", os.path.join(folder, "tests"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


_keep_compiled_programs()

ROOT = pathlib.Path(__file__).parents[1]
DATA = pathlib.Path(os.environ.get("FEDVLR_DATA_ROOT", ROOT.parent / "shared" / "data"))


def mostly_slow(cases, every):
    """One case of each `every` is for `make test`; the others are marked slow."""
    return [
        pytest.param(*_tuple(case), marks=[pytest.mark.slow] if place % every else [])
        for place, case in enumerate(cases)
    ]


def _tuple(case):
    return case if isinstance(case, tuple) else (case,)


def printed_json(module, *arguments, xla_flags=""):
    """What `python -m module` prints, run with XLA_FLAGS of its own: they hold for a process."""
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": xla_flags},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


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
