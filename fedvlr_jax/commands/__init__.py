"""The commands. NAME.py has a docstring (the help) and `main`; flags/NAME.py has `define_flags`.

The flags are apart so that a command line is parsed, and help printed, before JAX is loaded.
"""
