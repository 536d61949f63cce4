"""`fedvlr doctor` without an installation: python -m experiments.doctor."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("doctor")
