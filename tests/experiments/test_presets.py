"""Every preset is a set of flags that a run takes."""

import pytest

from fedvlr_jax.commands.members import parse_value
from fedvlr_jax.config import Config
from tests.conftest import ROOT

PRESETS = sorted((ROOT / "fedvlr_jax/presets").glob("*.flags"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(line.startswith("--") for line in lines)
    flags = [line.removeprefix("--") for line in lines]
    names, values = zip(*(flag.split("=", 1) for flag in flags), strict=True)
    assert len(set(names)) == len(names)
    parsed = {name: parse_value(path.stem, name, v) for name, v in zip(names, values, strict=True)}
    assert Config.from_flat(**parsed)
