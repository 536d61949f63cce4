"""Help, versions and completion load no large library; the names that flags list are complete."""

import subprocess
import sys

from fedvlr_jax.centralized import CENTRALIZED
from fedvlr_jax.commands import cli
from fedvlr_jax.config.centralized import CENTRALIZED_NAMES
from fedvlr_jax.config.prepare import ENCODER_NAMES, PRESET_NAMES
from fedvlr_jax.encoding.encoder import ENCODERS
from fedvlr_jax.prepare import PRESETS
from tests.conftest import ROOT

PROGRAM = """
import contextlib, io, sys
from fedvlr_jax.commands import cli, completion

def loaded():
    heavy = "jax jaxlib pandas flax optax orbax polars scipy sklearn optuna matplotlib numpy"
    return [name for name in heavy.split() if name in sys.modules]

for name in cli.COMMANDS:
    completion.flags_of(name)
    print(name, loaded())
for line in ("--help", "--version", "completion bash", "train --help"):
    sys.argv = ["fedvlr", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main()
    print(line, loaded())
"""


def test_neither_help_nor_completion_loads_a_large_library():
    run = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert len(lines) == len(cli.COMMANDS) + 4
    assert [line for line in lines if not line.endswith(" []")] == []


def test_the_names_that_flags_list_are_those_of_the_registries():
    assert CENTRALIZED_NAMES == tuple(CENTRALIZED)
    assert PRESET_NAMES == tuple(PRESETS)
    assert ENCODER_NAMES == tuple(ENCODERS)
