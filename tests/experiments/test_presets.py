"""Every preset is a set of flags that a run takes."""

import pytest

from experiments.members import parse_over
from fedvlr_jax.config import Config
from tests.conftest import ROOT

PRESETS = sorted((ROOT / "experiments/presets").glob("*.flags"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(line.startswith("--") for line in lines)
    flags = [line.removeprefix("--") for line in lines]
    # A semicolon keeps a value that holds commas in one piece.
    values = [parse_over(flag + ";")[0] for flag in flags if "," in flag]
    values += [parse_over(flag)[0] for flag in flags if "," not in flag]
    assert len(dict(values)) == len(lines)
    assert Config.from_flat(**dict(values))
