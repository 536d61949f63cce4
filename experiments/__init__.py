"""Launchers of the commands in `fedvlr_jax/commands/`, for a checkout without an installation."""
