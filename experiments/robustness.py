"""`fedvlr robustness` without an installation: python -m experiments.robustness."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("robustness")
