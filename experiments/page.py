"""`fedvlr page` without an installation: python -m experiments.page."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # `python experiments/page.py` has only the folder of this file on the path.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from fedvlr_jax.commands.cli import run

    run("page")
