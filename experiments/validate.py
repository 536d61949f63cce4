"""`fedvlr validate` without an installation: python -m experiments.validate."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("validate")
