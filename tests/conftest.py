import os
import pathlib

# Before JAX starts: the tests compile hundreds of tiny programs once and run them once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
DATA = pathlib.Path(os.environ.get("FEDVLR_DATA_ROOT", ROOT.parent / "shared" / "data"))


@pytest.fixture
def double_precision():
    """Everything of the test runs in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def data_root():
    """The folder of the real data sets; skips where it is absent."""
    if not (DATA / "KU").is_dir():
        pytest.skip(f"no data sets in {DATA}; FEDVLR_DATA_ROOT names another folder")
    return DATA
