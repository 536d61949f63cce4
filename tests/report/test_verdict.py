"""The words of a report say what the numbers say, and no more."""

import numpy as np
import pytest

from fedvlr_jax.report.verdict import headline, standard_error, users_differ, verdict, warnings


def scored(ndcg: float, half: float | None) -> dict:
    test = {"users": 100, "hr@50": 2 * ndcg, "ndcg@50": ndcg}
    if half is not None:
        test["ci95"] = {"ndcg@50": [ndcg - half, ndcg + half]}
    return test


def compared(ndcg: float, half: float | None = 1.0, **baselines: float) -> dict:
    others = {name: scored(value, half) for name, value in baselines.items()}
    return {
        "backbone": "fcf",
        "fusion": "none",
        "test": scored(ndcg, half),
        "baselines": others,
    }


def test_headline_names_protocol_users_items_and_selection(run):
    text = headline(run["config"], run["summary"], run["users"])
    assert text.startswith(
        "Mean over 204 test users; protocol paper: full ranking of 560 items, train items masked, "
        "negatives drawn from items seen in train; selected at round 75 on validation NDCG@50; "
        "test computed once. One standard error of HR@50 is ± 3."
    )


def test_headline_of_an_unknown_protocol_claims_no_rule(run):
    text = headline({}, run["summary"] | {"protocol": "mine"}, {})
    assert "protocol mine: full ranking; selected" in text


def test_standard_error_is_the_users_own_or_the_binomial_one():
    # Half of 204 users hit: sqrt(0.25 / 204) = 3.50 points.
    test = {"users": 204, "hr@50": 50.0}
    assert standard_error(test, {}) == pytest.approx(3.5007, abs=1e-4)
    # Values 0, 1 and a user without a target: sd 0.7071, over sqrt(2).
    assert standard_error(test, {"hr@50": np.array([0, 1, np.nan])}) == pytest.approx(50.0)
    assert standard_error({"users": 0}, {}) is None


def test_overlapping_intervals_leave_it_open(run):
    found = verdict(run["summary"])
    assert found.tone == "open"
    assert found.sentence == (
        "No clear difference from EASE, the best baseline, on warm NDCG@50 "
        "(27.4 against 33.5 %; 95% CIs overlap)."
    )
    assert "no clear difference from item-kNN; clearly above content-kNN text" in found.rest


@pytest.mark.parametrize(
    ("ndcg", "tone", "start", "end"),
    [
        (
            10.0,
            "below",
            "Below EASE, the best baseline, by 10.0 points on NDCG@50",
            "not overlap).",
        ),
        (
            30.0,
            "above",
            "Above EASE, the best baseline, by 10.0 points on NDCG@50",
            "not overlap).",
        ),
        (20.04, "open", "No clear difference from EASE, the best baseline, on", "CIs overlap)."),
    ],
)
def test_direction_and_certainty(ndcg, tone, start, end):
    found = verdict(compared(ndcg, EASE=20.0))
    assert found.tone == tone
    assert found.sentence.startswith(start)
    assert found.sentence.endswith(end)


def test_without_intervals_nothing_is_certain():
    found = verdict(compared(10.0, None, EASE=20.0))
    assert found.tone == "open"
    assert "no confidence intervals" in found.sentence


def test_the_other_baselines_are_sorted_into_three():
    found = verdict(compared(10.0, EASE=20.0, kNN=15.0, popular=10.5, random=2.0))
    assert found.rest == (
        "By the same intervals: clearly below kNN; no clear difference from popular; "
        "clearly above random."
    )


def test_nothing_to_compare_with_is_said():
    found = verdict(compared(10.0))
    assert (found.tone, found.rest) == ("alone", "")
    assert "No baseline was run" in found.sentence
    assert verdict({"test": {"users": 0}}).tone == "alone"


def test_no_sentence_says_that_one_method_beats_another(run):
    found = verdict(compared(30.0, EASE=20.0))
    assert not {"beat", "beats", "better", "significant"} & set(found.sentence.split())


def test_aborted_secure_sums_are_a_warning():
    secure = {"aborted_rounds": 8, "must_answer": 67}
    summary = {"rounds_run": 10, "selected_round": 5, "valid": {"users": 3}}
    (line,) = warnings({**summary, "costs": {"secure_sum": secure}})
    assert line.startswith("8 of 10 rounds aborted and changed nothing: fewer than 67 clients")
    assert warnings({**summary, "costs": {"secure_sum": {**secure, "aborted_rounds": 0}}}) == []


def test_a_best_last_round_is_a_warning(run):
    summary = run["summary"]
    summary["protocol"] = "strict"
    assert warnings(summary) == []
    summary |= {"stopped": "rounds", "selected_round": 100}
    assert "--rounds ended the training" in warnings(summary)[0]
    assert "never improved" in warnings(summary | {"selected_round": 0})[0]


def test_how_cold_items_are_treated_is_said(run):
    summary = run["summary"]
    (line,) = warnings(summary)
    assert "negatives come from items seen in train" in line and "--protocol=strict" in line
    strict = summary | {"protocol": "strict", "cold_items": {"items": 16, "share_tied": 0.9}}
    assert "90 % of the cold targets have the same score" in warnings(strict)[0]
    strict["cold_items"]["share_tied"] = 0.1
    assert warnings(strict) == []


def paired_run(difference, p_holm, **others):
    """A summary with paired tests against EASE and against the `others` by their p."""
    summary = compared(20.0 + difference, EASE=20.0, **dict.fromkeys(others, 15.0))
    row = {"difference": difference, "detectable": 2.5, "p_value": 0.5, "p_mean": 0.5, "users": 90}
    summary["paired"] = {"EASE": row | {"p_holm": p_holm}}
    for name, p in others.items():
        summary["paired"][name] = row | {"difference": 5.0, "p_holm": p}
    return summary


def test_the_paired_test_decides_where_intervals_overlap():
    found = verdict(paired_run(0.5, 0.03, kNN=0.5))
    assert found.tone == "above"
    assert found.sentence == (
        "Above EASE, the best baseline, by 0.5 points on NDCG@50 (20.5 against 20.0 %; paired "
        "t-test over 90 users, Holm's correction over 2 baselines: p = 0.03)."
    )
    assert found.rest == "By the same test: no significant difference from kNN."
    assert "another seed" in found.limit


def test_orders_without_training_are_counted_where_several():
    orders = {"Random order": 0.5, "Ascending item id": 0.5}
    assert verdict(paired_run(0.5, 0.03, kNN=0.5, **orders)).rest == (
        "By the same test: no significant difference from kNN, 2 orders without training."
    )
    one = verdict(paired_run(0.5, 0.03, **{"Random order": 0.5}))
    assert one.rest == "By the same test: no significant difference from Random order."


def test_the_paired_test_decides_where_intervals_are_apart():
    found = verdict(paired_run(9.0, 0.06))
    assert found.tone == "open"
    assert found.sentence.endswith(
        "over 90 users: p = 0.06). The test detects 2.5 points in 80 % of repetitions."
    )
    assert verdict(paired_run(-9.0, 1e-9)).tone == "below"
    assert "p = below 0.0001" in verdict(paired_run(-9.0, 1e-9)).sentence


def test_users_differ_by_their_spread_and_not_by_its_rank():
    router = {"mean": [0.34, 0.33, 0.33], "from_mean": 0.01, "from_uniform": 0.012}
    summary = {"views": ["id", "text", "image"], "router": router | {"p_uniform": [0.01, 0.2, 1]}}
    text = users_differ(summary)
    assert text.startswith("Users hardly differ: on average 1.0 % of a client's weight is on")
    assert "The mean weight of id (0.340) differs significantly from equal weights of 0.333" in text
    router["p_uniform"] = [0.01, 0.02, 1]
    several = "The mean weights of id (0.340), text (0.330) differ significantly from equal"
    assert several in users_differ({**summary, "router": router})
    equal = router | {"from_mean": 0.0, "from_uniform": 1e-8, "p_uniform": [1, 1, 1]}
    assert users_differ({**summary, "router": equal}) == (
        "Users do not differ: every client gives each of the 3 views equal weight."
    )
    router |= {"from_mean": 0.3, "p_uniform": [1, 1, 1]}
    text = users_differ({**summary, "router": router})
    assert text.startswith("Users differ clearly") and "No view's mean weight" in text
    assert users_differ({"router": {"mean": [1.0]}}) == users_differ({}) == ""
