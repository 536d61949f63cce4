"""The privacy of a run, as a statement that can be checked.

`plan` resolves the flags and refuses those without a statement. `accounting` computes epsilon,
`ledger` records the rounds that were spent, and `statement` puts both into words. `ring` chooses
the levels and the noise of secure sums, and `secure_sum` simulates their protocol. `attacks` and
`audit` test the guarantees.
"""
