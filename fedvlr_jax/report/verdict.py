"""The conclusions that the numbers of a run support, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.report.results import (
    METRIC_LABELS,
    Estimate,
    Method,
    estimate,
    judged_slice,
    methods,
    model_name,
    shows_cold,
)
from fedvlr_jax.selection import selection_of

# For each protocol: the masked items in the ranking of the test part, and the pool of negatives.
PROTOCOLS = {
    "paper": "train items masked, negatives drawn from items seen in train",
    "strict": "train and validation items masked, negatives drawn from the whole catalogue",
}


class Verdict(NamedTuple):
    """The comparison of the model with the best baseline.

    Attributes:
      tone: "above" or "below" if the paired test finds a significant difference; "open" if it does
        not; "alone" without a baseline. Runs of earlier versions have no paired test; for them,
        95% intervals without overlap count as a difference.
      sentence: the comparison, with its numbers.
      rest: the comparison with the other baselines; may be empty.
      limit: the limits of the comparison.
    """

    tone: str
    sentence: str
    rest: str
    limit: str = ""


def headline(
    config: Mapping[str, Any], summary: Mapping[str, Any], users: Mapping[str, np.ndarray]
) -> str:
    """One paragraph: the measured users, the protocol, the selection and the standard error."""
    test, protocol = summary.get("test") or {}, str(summary.get("protocol", "not recorded"))
    items = (config.get("dataset") or {}).get("num_items")
    ranking = "full ranking" + (f" of {items:,} items" if items else "")
    rule = PROTOCOLS.get(protocol)
    text = f"Mean over {test.get('users', 0):,} test users; protocol {protocol}: {ranking}"
    text += f", {rule}; " if rule else "; "
    selected = summary.get("selected_round", "?")
    text += (
        f"selected at round {selected} on validation {_selection(summary)}; "
        if can_select(summary)
        else f"the state of round {selected}, the last, because no user has a validation target; "
    )
    text += "test computed once."
    error = standard_error(test, users)
    if error is not None:
        text += f" One standard error of HR@50 is ± {error:.1f} points."
    return text


def _selection(summary: Mapping[str, Any]) -> str:
    return selection_of(summary).label


def standard_error(test: Mapping[str, Any], users: Mapping[str, np.ndarray]) -> float | None:
    """Standard error of the mean HR@50 over users, in points; None without users.

    From the users' own values [N] if they are known; else the binomial standard error, which is
    exact for one target per user and an upper bound for several.
    """
    found = estimate(test, "hr@50")
    if found is None or not found.users:
        return None
    values = np.asarray(users.get("hr@50", []), np.float64)
    values = values[np.isfinite(values)]
    if len(values) > 1:
        return 100 * float(values.std(ddof=1)) / math.sqrt(len(values))
    share = min(max(found.value / 100, 0.0), 1.0)
    return 100 * math.sqrt(share * (1 - share) / found.users)


def verdict(summary: Mapping[str, Any]) -> Verdict:
    """The model against the baselines on NDCG@50 of the judged slice."""
    judged = judged_slice(summary)
    metric = METRIC_LABELS["ndcg@50"] if judged == "all" else f"{judged} {METRIC_LABELS['ndcg@50']}"
    model = estimate(summary.get("test") or {}, "ndcg@50", judged)
    baselines = [
        (row, found)
        for row in methods(summary)
        if not row.is_model and (found := estimate(row.test, "ndcg@50", judged))
    ]
    if model is None:
        return Verdict("alone", "No test user has a target, so there is nothing to judge.", "")
    if not baselines:
        sentence = (
            f"{model_name(summary)} reaches {model.value:.1f} % {metric}. "
            "No baseline was run, so there is no comparison."
        )
        return Verdict("alone", sentence, "")
    best_row, best = baselines[0]
    direction = "below" if model.value < best.value else "above"
    if all(row.paired for row, _ in baselines):
        tested = [row for row, _ in baselines]
        tone = _outcome(best_row)
        sentence = _tested(model, best_row, best, metric, len(tested))
        return Verdict(tone, sentence, _other_tests(tested[1:]), OF_TESTS)
    tone = direction if _apart(model, best) else "open"
    sentence = _against(model, best_row, best, metric)
    return Verdict(tone, sentence, _others(model, baselines[1:]), OF_INTERVALS)


# The limits of a verdict.
OF_TESTS = (
    "One seed. The test compares the same users. Its p value accounts for another draw of users, "
    "but not for another seed; several seeds (fedvlr sweep) show that."
)
OF_INTERVALS = (
    "One seed. The intervals account for another draw of users. A claim that one method is better "
    "needs at least five seeds and a paired test over users, which can also find a difference "
    "between methods whose intervals overlap."
)
SIGNIFICANT = 0.05
# A share of the weight that is 0.0 % when printed.
_NO_SPREAD = 0.0005
# Baselines that only check the evaluation.
UNTRAINED_ORDERS = (
    *("Ascending item id", "Random order"),
    *("Unseen items first", "Least popular first"),
)


def _outcome(row: Method) -> str:
    """The paired test of the model against the baseline: "above", "below" or "open"."""
    if row.paired["p_holm"] >= SIGNIFICANT:
        return "open"
    return "above" if row.paired["difference"] > 0 else "below"


def _tested(model: Estimate, row: Method, best: Estimate, metric: str, tests: int) -> str:
    paired = row.paired
    numbers = f"{model.value:.1f} against {best.value:.1f} %"
    corrected = f", Holm's correction over {tests} baselines" if tests > 1 else ""
    test = f"paired t-test over {paired['users']:,} users{corrected}: p = {_p(paired['p_holm'])}"
    outcome = _outcome(row)
    if outcome != "open":
        points = abs(paired["difference"])
        return (
            f"{outcome.capitalize()} {row.name}, the best baseline, by {points:.1f} points on "
            f"{metric} ({numbers}; {test})."
        )
    detectable = paired.get("detectable")
    power = ""
    if detectable is not None:
        power = f" The test detects {detectable:.1f} points in 80 % of repetitions."
    return (
        f"No significant difference from {row.name}, the best baseline, on {metric} ({numbers}; "
        f"{test}).{power}"
    )


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.0001 else "below 0.0001"


def _other_tests(others: list[Method]) -> str:
    names = {"below": "below", "open": "no significant difference from", "above": "above"}
    groups = {key: _named([row for row in others if _outcome(row) == key]) for key in names}
    parts = [f"{names[key]} {', '.join(found)}" for key, found in groups.items() if found]
    return f"By the same test: {'; '.join(parts)}." if parts else ""


def _named(rows: list[Method]) -> list[str]:
    """The names, but of the orders that nothing is learned for only the number, where several."""
    orders = [row.name for row in rows if row.name in UNTRAINED_ORDERS]
    if len(orders) < 2:
        return [row.name for row in rows]
    names = [row.name for row in rows if row.name not in orders]
    return [*names, f"{len(orders)} orders without training"]


def users_differ(summary: Mapping[str, Any]) -> str:
    """Whether the clients' routers weigh the views differently; "" without a router's spread.

    The spread states the size of the differences. The test compares the mean weights with equal
    weights. Training changes each client's weights, so a spread above zero alone is no evidence.
    """
    router = summary.get("router") or {}
    if "from_mean" not in router:
        return ""
    views = [str(view) for view in summary.get("views") or []]
    mean = router.get("mean") or []
    apart = [
        f"{view} ({weight:.3f})"
        for view, weight, p in zip(views, mean, router["p_uniform"], strict=False)
        if p < SIGNIFICANT
    ]
    spread, uniform = router["from_mean"], router["from_uniform"]
    if max(spread, uniform) < _NO_SPREAD:
        return (
            f"Users do not differ: every client gives each of the {len(views)} views equal weight."
        )
    much = "somewhat" if spread < 0.1 else "clearly"
    differ = "Users hardly differ" if spread < 0.02 else f"Users differ {much}"
    equal = f"equal weights of {1 / max(1, len(views)):.3f}"
    tests = "(t-tests over clients, Holm's correction, 5 %)"
    one = f"The mean weight of {', '.join(apart)} differs"
    which = one if len(apart) == 1 else f"The mean weights of {', '.join(apart)} differ"
    found = (
        f"{which} significantly from {equal} {tests}."
        if apart
        else f"No view's mean weight differs significantly from {equal} {tests}."
    )
    return (
        f"{differ}: on average {100 * spread:.1f} % of a client's weight is on other views than in "
        f"the mean of all clients, and {100 * uniform:.1f} % on other views than with equal "
        f"weights. {found}"
    )


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """One sentence for each possible fault of the run; may be empty."""
    found = []
    if not can_select(summary):
        found.append(
            "No user has a validation target: no round could be selected, and --rounds may be too "
            "small or too large."
        )
        return found
    found += _on_cold_items(summary) + on_aborted_rounds(summary)
    last = summary.get("rounds_run")
    if summary.get("stopped") == "rounds" and last and summary.get("selected_round") == last:
        found.append(
            f"The selected round is the last one ({last}): --rounds ended the training, and more "
            "rounds may be better."
        )
    if not summary.get("selected_round", 1):
        found.append("The selected round is 0: training never improved on the initial state.")
    return found


def _on_cold_items(summary: Mapping[str, Any]) -> list[str]:
    """How the method treats items without a train interaction; empty if few are targets."""
    if not shows_cold(summary):
        return []
    found = []
    if summary.get("protocol") == "paper":
        found.append(
            "Cold targets: negatives come from items seen in train, so training never lowers the "
            "score of an unseen item. Judge cold targets under --protocol=strict, beside Unseen "
            "items first and Content-kNN."
        )
    share = (summary.get("cold_items") or {}).get("share_tied")
    if share is not None and share > 0.5:
        found.append(
            f"Cold items: {100 * share:.0f} % of the cold targets have the same score as another "
            "item: the method does not distinguish most cold items."
        )
    return found


def on_aborted_rounds(summary: Mapping[str, Any]) -> list[str]:
    """The rounds in which too few clients answered for a secure sum; empty if there are none."""
    secure = (summary.get("costs") or {}).get("secure_sum") or {}
    if not secure.get("aborted_rounds"):
        return []
    line = (
        f"{secure['aborted_rounds']:,} of {summary['rounds_run']:,} rounds aborted and changed "
        f"nothing: fewer than {secure['must_answer']:,} clients answered. Lower "
        "--secure_threshold, or let more clients answer (--client_dropout, --deadline_s, "
        "--over_selection)."
    )
    return [line]


def can_select(summary: Mapping[str, Any]) -> bool:
    """Whether a validation target exists, so that a round can be selected."""
    return (summary.get("valid") or {}).get("users") != 0


def _apart(a: Estimate, b: Estimate) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low > b.high or b.low > a.high


def _against(model: Estimate, row: Method, best: Estimate, metric: str) -> str:
    points = abs(model.value - best.value)
    numbers = f"{model.value:.1f} against {best.value:.1f} %"
    side = "Below" if model.value < best.value else "Above"
    apart = f"{side} {row.name}, the best baseline, by {points:.1f} points on {metric}"
    if model.low is None or best.low is None:
        return f"{apart} ({numbers}; no confidence intervals)."
    if _apart(model, best):
        return f"{apart} ({numbers}; 95% CIs do not overlap)."
    return (
        f"No clear difference from {row.name}, the best baseline, on {metric} ({numbers}; 95% CIs "
        "overlap)."
    )


def _others(model: Estimate, others: list[tuple[Method, Estimate]]) -> str:
    groups = {
        "clearly below": [r.name for r, e in others if _apart(model, e) and e.value > model.value],
        "no clear difference from": [r.name for r, e in others if not _apart(model, e)],
        "clearly above": [r.name for r, e in others if _apart(model, e) and e.value < model.value],
    }
    parts = [f"{relation} {', '.join(names)}" for relation, names in groups.items() if names]
    return f"By the same intervals: {'; '.join(parts)}." if parts else ""
