"""`fedvlr features` without an installation: python -m experiments.features."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("features")
