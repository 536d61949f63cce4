"""`fedvlr table2` without an installation: python -m experiments.table2."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("table2")
