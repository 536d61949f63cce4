import jax
import pytest


@pytest.fixture(autouse=True)
def double_precision():
    """These tests compare with an oracle: everything runs in float64."""
    with jax.enable_x64(True):
        yield
