"""`fedvlr page` without an installation: python -m experiments.page."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("page")
