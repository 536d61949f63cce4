"""`fedvlr centralized` without an installation: python -m experiments.centralized."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("centralized")
