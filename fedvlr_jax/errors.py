"""The exception for faults that a user can correct."""


class InputError(ValueError):
    """Bad input: an unusable file, row, column, flag or combination of flags.

    The message is one line. It names the place of the fault, the value found and a correct value.
    The commands print it and exit with status 2.
    """
