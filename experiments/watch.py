"""`fedvlr watch` without an installation: python -m experiments.watch."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("watch")
