"""`fedvlr prepare` without an installation: python -m experiments.prepare."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("prepare")
