"""--select: its syntax, its slice on a data set, its value."""

import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.selection import judged_slice, resolve_selection
from fedvlr_jax.selection import Selection, parse_selection


def interactions(rows):
    user = [u for u, row in enumerate(rows) for _ in row]
    item = [i for row in rows for i in row]
    return Interactions.from_pairs(user=user, item=item, num_users=len(rows), num_items=5)


def dataset(*, valid, test):
    """Two users, with train items 0, 1 and 1, 2. Items 3 and 4 are cold."""
    return Dataset(
        name="toy",
        train=interactions([[0, 1], [1, 2]]),
        valid=interactions(valid),
        test=interactions(test),
        features={},
        user_ids=["0", "1"],
        item_ids=list("01234"),
        split="predefined",
    )


def test_the_forms():
    assert parse_selection("auto") == parse_selection("ndcg@50") == Selection("auto", "ndcg", 50)
    assert parse_selection("warm_hr@10") == Selection("warm", "hr", 10)
    assert parse_selection("all_map@7") == Selection("all", "map", 7)
    for text in ("", "ndcg", "ndcg@0", "ndcg@x", "NDCG@50", "warm ndcg@50", "@50"):
        with pytest.raises(InputError, match=f"select={text}: give a metric at a cut-off"):
            parse_selection(text)
    with pytest.raises(InputError, match="no metric 'auc'; give one of hr, recall"):
        parse_selection("auc@5")
    with pytest.raises(InputError, match="no slice 'tepid'; give one of all, warm, cold"):
        parse_selection("tepid_hr@5")


@pytest.mark.parametrize("text", ["warm_ndcg@50", "all_hr@10", "cold_map@3"])
def test_what_a_summary_says_is_read_back(text):
    assert str(parse_selection(text)) == text


def test_auto_is_the_slice_that_the_data_set_is_judged_on():
    auto = parse_selection("auto")
    mixed = dataset(valid=[[2], [3]], test=[[3], [0]])
    assert judged_slice(mixed) == resolve_selection(auto, mixed).slice == "warm"
    warm = dataset(valid=[[2], [0]], test=[[2], [0]])
    assert judged_slice(warm) == resolve_selection(auto, warm).slice == "all"
    cold = dataset(valid=[[2], [3]], test=[[3], [4]])
    assert judged_slice(cold) == resolve_selection(auto, cold).slice == "all"
    # The judged slice of the test part is "warm", but no validation target is warm.
    assert resolve_selection(auto, dataset(valid=[[4], [3]], test=[[3], [0]])).slice == "all"


def test_a_slice_without_validation_targets_is_refused():
    warm = dataset(valid=[[2], [0]], test=[[3], [0]])
    with pytest.raises(InputError, match=r"select=cold_hr@10: toy has no cold validation target"):
        resolve_selection(parse_selection("cold_hr@10"), warm)
    none = dataset(valid=[[], []], test=[[3], [0]])
    assert resolve_selection(parse_selection("cold_hr@10"), none).slice == "cold"


def test_the_value_of_a_slice():
    averages = {"ndcg@50": 1.0, "hr@10": 2.0, "warm": {"ndcg@50": 3.0}, "cold": {"users": 0}}
    assert Selection("all", "hr", 10).value(averages) == 2.0
    assert Selection("warm", "ndcg", 50).value(averages) == 3.0
    assert Selection("cold", "ndcg", 50).value(averages) is None


def test_the_headline_and_the_selection_are_always_computed():
    assert Config.from_flat(ks="10,20").evaluation.cutoffs == (10, 20, 50)
    assert Config.from_flat(ks="10", select="warm_hr@7").evaluation.cutoffs == (7, 10, 50)
