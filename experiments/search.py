"""`fedvlr search` without an installation: python -m experiments.search."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("search")
