"""Which places an export lists, and what it says of ties."""

import numpy as np
import pytest

from fedvlr_jax.commands.one_run.exporting import check_export, listed
from fedvlr_jax.errors import InputError

COLD = np.array([False, False, False, True, True, True])


def lists(items, scores, k=6):
    places, tie = listed(np.array(items), np.array(scores, np.float32), COLD, k)
    return [items[place] for place in places], tie.tolist()


def test_items_without_a_train_interaction_that_tie_are_left_out():
    # Items 3, 4 and 5 are cold and score 0 alike: their order is that of their ids.
    assert lists([0, 3, 4, 5, 1], [2, 0, 0, 0, -1]) == ([0, 1], [False, False])
    # The places go to the items behind them.
    assert lists([3, 4, 5, 0, 1, 2], [1, 1, 1, 0.5, 0.4, 0.3], k=2) == ([0, 1], [False, False])


def test_a_cold_item_with_a_score_of_its_own_stays():
    assert lists([3, 0, 4, 5], [3, 2, 1, 1]) == ([3, 0], [False, False])


def test_warm_items_that_tie_stay_and_are_marked():
    assert lists([0, 1, 2], [2, 2, 1]) == ([0, 1, 2], [True, True, False])
    # One cold item that ties with a warm one: the tie is said, and it stays.
    assert lists([0, 3, 1], [2, 2, 1]) == ([0, 3, 1], [True, True, False])
    # A tie across the end of the list is seen.
    assert lists([0, 1, 2], [2, 1, 1], k=2) == ([0, 1], [False, True])


def test_places_without_a_candidate_are_left_out():
    assert lists([0, 1, 2], [1, -np.inf, -np.inf]) == ([0], [False])
    assert lists([0, 1], [-np.inf, -np.inf]) == ([], [])


@pytest.mark.parametrize("name", ["config.json", "users.npz", "ledger.json", "checkpoints/x.csv"])
def test_a_file_of_the_run_is_not_replaced(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(InputError, match=f"{name}: is a file of the run in"):
        check_export(tmp_path / "link" / name, tmp_path / "run")
    check_export(tmp_path / "run" / "list.csv", tmp_path / "run")
    check_export(tmp_path / name, tmp_path / "run")
