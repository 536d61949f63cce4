"""`fedvlr completion` without an installation: python -m experiments.completion."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("completion")
