"""`fedvlr ceiling` without an installation: python -m experiments.ceiling."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("ceiling")
