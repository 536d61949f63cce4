"""`fedvlr ablation` without an installation: python -m experiments.ablation."""

from fedvlr_jax.commands.cli import run

if __name__ == "__main__":
    run("ablation")
