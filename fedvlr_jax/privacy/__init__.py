"""The privacy of a run, as a statement that can be checked.

`calibration` resolves the flags, and refuses flags without a statement. `mechanism` has the
clipping and the noise of a round, `release` describes its release, `accounting` computes epsilon,
`ledger` records the spent rounds, and `statement` states the result in words. `secure_rounds`
chooses the levels and the noise of secure sums, and `secure_sum` simulates their protocol.
`attacks` and `audit` test the guarantees.
"""
