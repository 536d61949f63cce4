"""`fedvlr audit` without an installation: python -m experiments.audit."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("audit")
