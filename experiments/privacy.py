"""`fedvlr privacy` without an installation: python -m experiments.privacy."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("privacy")
