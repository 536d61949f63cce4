"""`fedvlr fleet` without an installation: python -m experiments.fleet."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("fleet")
