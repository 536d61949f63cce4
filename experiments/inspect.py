"""`fedvlr inspect` without an installation: python -m experiments.inspect."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("inspect")
