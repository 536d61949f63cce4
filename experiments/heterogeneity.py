"""`fedvlr heterogeneity` without an installation: python -m experiments.heterogeneity."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("heterogeneity")
