"""`python -m fedvlr_jax NAME`: the same as `fedvlr NAME`."""

from fedvlr_jax.commands.cli import main

if __name__ == "__main__":
    main()
