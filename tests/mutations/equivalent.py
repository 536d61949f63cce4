"""Mutants that no test can kill, with the reason; `systematic.py` does not count them."""

# Keys of mutants -> reason.
EQUIVALENT: dict[tuple[str, str, str, int], str] = {}
