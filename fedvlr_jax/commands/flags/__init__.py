"""The flags of each command. A module here imports neither JAX nor another large library."""
