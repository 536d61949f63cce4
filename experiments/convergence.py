"""`fedvlr convergence` without an installation: python -m experiments.convergence."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("convergence")
