"""`fedvlr sweep` without an installation: python -m experiments.sweep."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("sweep")
