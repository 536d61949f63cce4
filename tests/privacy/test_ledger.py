"""What was spent is on the disk before it is spent, and is never forgotten."""

import pytest

from fedvlr_jax.errors import InputError
from fedvlr_jax.privacy.ledger import Ledger
from fedvlr_jax.report import RunDirectory


def test_it_never_goes_back(tmp_path):
    Ledger(tmp_path).begin(7, 1.5)
    ledger = Ledger(tmp_path)
    ledger.begin(3, 1.5)
    assert (ledger.rounds, Ledger(tmp_path).rounds, Ledger(tmp_path).multiplier) == (7, 7, 1.5)


def test_exchanges_are_entered_before_the_rounds(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin_exchanges(0, 0.0, 2.0)
    assert not (tmp_path / "ledger.json").exists()
    ledger.begin_exchanges(3, 5.0, 2.0)
    again = Ledger(tmp_path)
    assert (again.rounds, again.exchanges, again.exchange_multiplier) == (0, 3, 5.0)
    again.begin(7, 2.0)
    again.begin_exchanges(3, 5.0, 2.0)
    last = Ledger(tmp_path)
    assert (last.rounds, last.multiplier, last.exchanges) == (7, 2.0, 3)
    with pytest.raises(InputError, match=r"has 3 exchanges with init_noise_multiplier=5.0, not"):
        last.begin_exchanges(3, 4.0, 2.0)


def test_what_other_files_prove_counts(tmp_path):
    assert Ledger(tmp_path, [4, 9]).rounds == 9
    Ledger(tmp_path).begin(12, 1.0)
    assert Ledger(tmp_path, [4, 9]).rounds == 12


def test_other_noise_is_refused(tmp_path):
    Ledger(tmp_path).begin(2, 1.0)
    with pytest.raises(InputError, match=r"noise_multiplier=1\.0, not 2\.0"):
        Ledger(tmp_path).begin(3, 2.0)


DAMAGED = ["", "{", "[]", '{"rounds": -1, "noise_multiplier": 1}', "0"]
DAMAGED += ['{"rounds": 1, "noise_multiplier": 1, "exchanges": 3}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_one_is_refused(tmp_path, content):
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(InputError, match=r"ledger.json: damaged, so the spent rounds are not"):
        Ledger(tmp_path)


def test_a_run_that_replaces_another_begins_at_nothing(tmp_path):
    RunDirectory.create(tmp_path, overwrite=False).write_config({"flags": {}})
    Ledger(tmp_path).begin(7, 1.5)
    RunDirectory.create(tmp_path, overwrite=True).write_config({"flags": {}})
    assert Ledger(tmp_path).rounds == 0
