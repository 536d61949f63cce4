"""`python -m experiments NAME`: the same as `fedvlr NAME`; without NAME it lists the commands."""

from fedvlr_jax.commands.cli import main

if __name__ == "__main__":
    main()
