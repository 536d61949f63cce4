"""The commands. Each is a module with a docstring (its help), `define_flags` and `main`."""
