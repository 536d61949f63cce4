"""The commands. NAME.py has a docstring (the help) and `main`; flags/NAME.py has `define_flags`.

The flags are separate, so a command parses its command line and prints help without loading JAX.
"""
