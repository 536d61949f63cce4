"""What a run reveals of its clients, as a statement that can be checked.

`plan` decides what the flags ask for and refuses what has no statement, `accounting` turns it into
epsilon, `ledger` holds what was spent, and `statement` says it.
"""
