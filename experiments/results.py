"""`fedvlr results` without an installation: python -m experiments.results."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("results")
