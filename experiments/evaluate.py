"""`fedvlr evaluate` without an installation: python -m experiments.evaluate."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("evaluate")
