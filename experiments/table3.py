"""`fedvlr table3` without an installation: python -m experiments.table3."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("table3")
