"""What may honestly be said of a run, in words."""

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

# What each protocol masks when the test part is ranked, and where negatives come from.
PROTOCOLS = {
    "paper": "train items masked, negatives drawn from items seen in train",
    "strict": "train and validation items masked, negatives drawn from the whole catalogue",
}


class Verdict(NamedTuple):
    """How the model stands against the best baseline.

    Attributes:
      tone: "above" or "below" where the paired test tells them apart; "open" where it does not;
        "alone" where there is nothing to compare with. Runs of earlier versions have no paired
        test: there 95% intervals decide that are apart or overlap.
      sentence: the comparison, with its numbers.
      rest: where the other baselines stand; may be empty.
      limit: what the comparison does not say.
    """

    tone: str
    sentence: str
    rest: str
    limit: str = ""


def headline(config: Mapping[str, Any], summary: Mapping[str, Any], users: Mapping) -> str:
    """One paragraph: what was measured, over whom, how selected, and how sure it is."""
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
        else f"the state of round {selected}, the last, for no user has a validation target; "
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

    From the users' own values [N] where they are known; else the binomial one, which is
    exact for one target a user and an upper bound for several.
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
            "No baseline was run, so nothing says whether that is much or little."
        )
        return Verdict("alone", sentence, "")
    best_row, best = baselines[0]
    direction = "below" if model.value < best.value else "above"
    if all(row.paired for row, _ in baselines):
        tested = [row for row, _ in baselines]
        tone = _standing(best_row)
        sentence = _tested(model, best_row, best, metric, len(tested))
        return Verdict(tone, sentence, _other_tests(tested[1:]), OF_TESTS)
    tone = direction if _apart(model, best) else "open"
    sentence = _against(model, best_row, best, metric)
    return Verdict(tone, sentence, _others(model, baselines[1:]), OF_INTERVALS)


# What a verdict does not say.
OF_TESTS = (
    "One seed. The test compares the same users, and says whether another draw of users could undo "
    "the difference. It does not say whether another seed could: that takes several seeds (fedvlr "
    "sweep)."
)
OF_INTERVALS = (
    "One seed. The intervals say how far another draw of users could move each number. That one "
    "method beats another takes at least five seeds and a paired test over users, which may also "
    "separate methods whose intervals overlap."
)
SIGNIFICANT = 0.05
# Baselines that only check the evaluation.
UNTRAINED_ORDERS = (
    *("Ascending item id", "Random order"),
    *("Unseen items first", "Least popular first"),
)


def _standing(row: Method) -> str:
    """ "above", "below" or "open": the model against the baseline of the row, by its test."""
    if row.paired["p_holm"] >= SIGNIFICANT:
        return "open"
    return "above" if row.paired["difference"] > 0 else "below"


def _tested(model: Estimate, row: Method, best: Estimate, metric: str, tests: int) -> str:
    paired = row.paired
    numbers = f"{model.value:.1f} against {best.value:.1f} %"
    corrected = f", Holm's correction over {tests} baselines" if tests > 1 else ""
    test = f"paired t-test over {paired['users']:,} users{corrected}: p = {_p(paired['p_holm'])}"
    standing = _standing(row)
    if standing != "open":
        points = abs(paired["difference"])
        return (
            f"{standing.capitalize()} {row.name}, the best baseline, by {points:.1f} points on "
            f"{metric} ({numbers}; {test})."
        )
    detectable = paired.get("detectable")
    seen = "" if detectable is None else f" The test would see {detectable:.1f} points."
    return (
        f"Not told apart from {row.name}, the best baseline, on {metric} ({numbers}; {test}).{seen}"
    )


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.0001 else "below 0.0001"


def _other_tests(others: list[Method]) -> str:
    names = {"below": "below", "open": "not told apart from", "above": "above"}
    groups = {key: _named([row for row in others if _standing(row) == key]) for key in names}
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

    The spread is a size, and the test is of the mean weights: training gives each client some
    weights, so that a spread above zero is no evidence by itself.
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
    much = "somewhat" if spread < 0.1 else "clearly"
    differ = "Users hardly differ" if spread < 0.02 else f"Users differ {much}"
    equal = f"equal weights of {1 / max(1, len(views)):.3f}"
    told = (
        f"The mean weight of {', '.join(apart)} is told apart from {equal} (t-tests over clients, "
        "Holm's correction, 5 %)."
        if apart
        else f"No view's mean weight is told apart from {equal} (t-tests over clients, Holm's "
        "correction, 5 %)."
    )
    return (
        f"{differ}: on average {100 * spread:.1f} % of a client's weight lies elsewhere "
        f"than in the mean of all clients, and {100 * uniform:.1f} % elsewhere than in equal "
        f"weights. {told}"
    )


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """What a careful reader would ask, one sentence each; empty if nothing."""
    found = []
    if not can_select(summary):
        found.append(
            "No user has a validation target: no round could be selected, and nothing tells "
            "whether --rounds was too few or too many."
        )
        return found
    found += _on_cold_items(summary)
    last = summary.get("rounds_run")
    if summary.get("stopped") == "rounds" and last and summary.get("selected_round") == last:
        found.append(
            f"The selected round is the last one ({last}): training was cut by --rounds, "
            "and more rounds might do better."
        )
    if not summary.get("selected_round", 1):
        found.append("The selected round is 0: training never improved on the initial state.")
    return found


def _on_cold_items(summary: Mapping[str, Any]) -> list[str]:
    """How the method treats items without a train interaction; nothing where few are targets."""
    if not shows_cold(summary):
        return []
    found = []
    if summary.get("protocol") == "paper":
        found.append(
            "Cold targets: negatives come from items seen in train, so that training never lowers "
            "an unseen item. Judge cold targets under --protocol=strict, beside Unseen items first "
            "and Content-kNN."
        )
    share = (summary.get("cold_items") or {}).get("share_tied")
    if share is not None and share > 0.5:
        found.append(
            f"Cold items: {100 * share:.0f} % of the cold targets have the same score as another "
            "item: the method does not tell most cold items apart."
        )
    return found


def can_select(summary: Mapping[str, Any]) -> bool:
    """Whether any user had a validation target to choose the round by."""
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
        f"Not told apart from {row.name}, the best baseline, on {metric} ({numbers}; 95% CIs "
        "overlap)."
    )


def _others(model: Estimate, others: list[tuple[Method, Estimate]]) -> str:
    groups = {
        "clearly below": [r.name for r, e in others if _apart(model, e) and e.value > model.value],
        "not told apart from": [r.name for r, e in others if not _apart(model, e)],
        "clearly above": [r.name for r, e in others if _apart(model, e) and e.value < model.value],
    }
    parts = [f"{relation} {', '.join(names)}" for relation, names in groups.items() if names]
    return f"By the same intervals: {'; '.join(parts)}." if parts else ""
