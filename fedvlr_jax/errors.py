"""The one exception that a user of this package is meant to see."""


class InputError(ValueError):
    """Bad input: a file, a row, a column, a flag or a combination that cannot be used.

    The message is one line that names where the fault is, what was found and what
    would be right. The command-line programs print it and exit with status 2.
    """
