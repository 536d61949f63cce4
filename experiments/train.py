"""`fedvlr train` without an installation: python -m experiments.train."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("train")
