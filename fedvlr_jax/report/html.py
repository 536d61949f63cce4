"""The report of a run: one self-contained page, for the screen and for print."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from fedvlr_jax.report import curves, plots, results, router_plots, tables
from fedvlr_jax.report import verdict as verdicts
from fedvlr_jax.report.costs import cost_curves, cost_rows
from fedvlr_jax.selection import selection_of

_TIMING_LABELS = {
    "total_s": ("training, in the last session", "s"),
    "first_block_s": ("of it the first block, with compilation", "s"),
    "round_s_median": ("median round", "ms"),
    "eval_s_median": ("median evaluation", "ms"),
}


def render_report(
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    users: Mapping[str, np.ndarray],
) -> str:
    """The page as HTML text. It contains style and figures, no script and no link.

    Args:
      config, summary, metrics: as read from a run directory; see the package docstring.
      users: the arrays of users.npz; if empty, the page has no figures of clients.

    Escapes every text of the arguments. The same arguments give the same text.
    """
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=f"{summary.get('dataset', 'unnamed data set')} · {results.model_name(summary)}",
            headline=verdicts.headline(config, summary, users),
            verdict=verdicts.verdict(summary),
            differ=verdicts.users_differ(summary),
            warnings=verdicts.warnings(summary),
            cards=_cards(config, summary),
            results=_results_table(summary),
            paired=_paired(summary),
            judged=results.judged_slice(summary),
            cutoffs=tables.cutoff_table(summary),
            cold=_cold_note(summary),
            can_select=verdicts.can_select(summary),
            curves=_curves(summary, metrics),
            bars=figures(plots.method_bars(summary, metric) for metric in results.METRIC_LABELS),
            activity=figures([plots.activity_bars(summary, users), plots.user_distribution(users)]),
            router=_router(config, summary, users),
            recommended=_recommended(summary),
            privacy=_privacy(summary),
            dataset=_dataset_rows(config, summary),
            notes=list((config.get("dataset") or {}).get("notes") or []),
            flags=_flag_groups(config),
            timing=_timing_rows(summary, metrics),
            costs=cost_rows(summary),
            versions=_version_rows(config),
            command=config.get("command"),
            summary=summary,
        )
    )


def environment() -> jinja2.Environment:
    """The templates of this room. They escape every text."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("fedvlr_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["shown"] = _shown
    return found


def figures(svgs: Any) -> list[Markup]:
    """Figures for a page, in which an <svg> needs no namespace; omits None."""
    return [Markup(re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)) for svg in svgs if svg]


def _cards(config: Mapping[str, Any], summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The key numbers: {"label", "value", "unit", "note"} each."""
    judged = results.judged_slice(summary)
    cards = []
    targets = "" if judged == "all" else f"{judged} "
    for metric, name in reversed(results.METRIC_LABELS.items()):
        found = results.estimate(summary.get("test") or {}, metric, judged)
        if found:
            known = found.low is not None and found.high is not None
            note = f"95% CI {found.low:.1f} – {found.high:.1f}" if known else "no interval"
            label = f"{targets}{name}"
            cards.append(_card(label[0].upper() + label[1:], f"{found.value:.1f}", note, "%"))
    baselines = [row for row in results.methods(summary) if not row.is_model]
    best = results.estimate(baselines[0].test, "ndcg@50", judged) if baselines else None
    if best:
        label = "NDCG@50" if judged == "all" else f"{judged} NDCG@50"
        cards.append(
            _card("Best baseline", f"{best.value:.1f}", f"{baselines[0].name}, {label}", "%")
        )
    stopped = {"patience": "stopped by patience", "rounds": "the most allowed"}
    why = stopped.get(str(summary.get("stopped")), "")
    rounds = f"of {summary.get('rounds_run', '?')} run" + (f", {why}" if why else "")
    cards.append(_card("Selected round", _shown(summary.get("selected_round")), rounds))
    users = (summary.get("test") or {}).get("users", 0)
    clients = (config.get("dataset") or {}).get("num_users")
    cards.append(_card("Test users", f"{users:,}", f"of {_shown(clients)} clients"))
    round_s = (summary.get("timing") or {}).get("round_s_median")
    if round_s:
        device = str(config.get("device") or "device not recorded")
        cards.append(_card("Rounds per second", f"{1 / round_s:.3g}", device))
    return cards


def _card(label: str, value: str, note: str, unit: str = "") -> dict[str, str]:
    return {"label": label, "value": value, "note": note, "unit": unit}


def _results_table(summary: Mapping[str, Any]) -> dict[str, Any]:
    rows, shown = results.methods(summary), tables.columns(summary)
    best = tables.best_values(rows, shown)
    judged = results.judged_slice(summary)
    body = []
    for row in rows:
        cells = []
        for part, metric in shown:
            found = results.estimate(row.test, metric, part)
            is_best = found is not None and found.value == best[part, metric]
            cells.append({"found": found, "best": is_best, "judged": part == judged})
        body.append({"name": row.name, "options": row.options, "model": row.is_model, "c": cells})
    slices = results.shown_slices(summary)
    return {
        "slices": [(results.SLICE_LABELS[s], s == judged and len(slices) > 1) for s in slices],
        "metrics": [(results.METRIC_LABELS[m], s == judged) for s, m in shown],
        "body": body,
        "skipped": results.skipped_baselines(summary),
        "caption": tables.table_caption(summary),
    }


def _paired(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each baseline with a paired test against the model."""
    rows = []
    for method in results.methods(summary):
        if found := method.paired:
            detectable = found.get("detectable")
            cells = [
                f"{found['difference']:+.2f}",
                "–" if detectable is None else f"± {detectable:.2f}",
                *(f"{found[name]:.2g}" for name in ("p_holm", "p_mean", "p_value")),
            ]
            rows.append({"name": method.name, "cells": cells})
    return rows


def _cold_note(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The numbers of users with cold and with warm targets; None if few users have a cold one."""
    if not results.shows_cold(summary):
        return None
    test = summary["test"]
    warm = results.slice_of(test, "warm").get("users", 0)
    return {"users": test.get("users", 0), "cold": test["cold"]["users"], "warm": warm}


def _curves(summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[Markup]:
    selected, by = summary.get("selected_round"), selection_of(summary).slice
    validation = [curves.validation_curve(metrics, m, selected, by) for m in ("ndcg@50", "hr@50")]
    training = [curves.loss_curve(metrics), curves.clipped_curve(metrics)]
    return figures([*validation, *training, *cost_curves(summary)])


def _router(
    config: Mapping[str, Any], summary: Mapping[str, Any], users: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """Figures and means of the clients' weights; None without a router."""
    views = [str(view) for view in summary.get("views") or []]
    groups = list((summary.get("test") or {}).get("activity") or {})
    strip = router_plots.router_strip(users, views)
    if strip is None:
        return None
    weights = np.asarray(users["router_weights"], np.float64)
    # Equal weights, such as those before training, lead nowhere.
    leads = weights == weights.max(axis=1, keepdims=True)
    leading = (leads & (leads.sum(axis=1, keepdims=True) == 1)).mean(axis=0)
    spearman = summary.get("planted_spearman") or {}
    scatters = [router_plots.planted_scatter(users, views, v, spearman.get(v)) for v in views]
    rows = zip(views, weights.mean(axis=0), weights.std(axis=0), leading, strict=True)
    return {
        "figures": figures([strip, router_plots.router_by_activity(users, views, groups)]),
        "scatters": figures(scatters),
        "begins_planted": (config.get("flags") or {}).get("init_router") == "planted",
        "rows": [
            {"view": v, "mean": f"{m:.3f}", "sd": f"{s:.3f}", "leading": f"{100 * top:.0f} %"}
            for v, m, s, top in rows
        ],
    }


def _recommended(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The users of "recommended", with their weights as one text."""
    views = [str(view) for view in summary.get("views") or []]
    found = []
    for user in summary.get("recommended") or []:
        weights = user.get("weights") or []
        shares = [f"{view} {100 * w:.0f} %" for view, w in zip(views, weights, strict=False)]
        found.append({**user, "weights": ", ".join(shares)})
    return found


def _privacy(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The statement of --privacy as rows and lists; None without --privacy."""
    stated = summary.get("privacy")
    if not stated:
        return None
    sampler, clipping, rounds = stated["sampler"], stated["clipping"], stated["rounds"]
    rows = [
        ("trust model", stated["trust_model"]),
        ("unit", stated["unit"]),
        ("neighbouring data sets", stated["neighbouring"]),
        ("sampling", f"{sampler['name']}, q = {sampler['probability']:.4g}"),
        ("users", _shown(sampler["population"])),
        ("places of a round", _shown(sampler["places"])),
        ("noise multiplier", f"{stated['noise_multiplier']:.5g}"),
        ("of it on the uploads", f"{stated['upload_noise_multiplier']:.5g}"),
        ("clipping", f"{clipping['norm']:g}" + (", adaptive" if clipping["quantile"] else "")),
        ("delta", f"{stated['delta']:g}"),
        ("budget", _shown(stated["target_epsilon"])),
        ("library", stated["library"]),
    ]
    if exchanges := stated.get("exchanges"):
        noise = f"noise multiplier {exchanges['noise_multiplier']:.5g}"
        rows.append(("exchanges before the first round", f"{exchanges['number']}, {noise}"))
    if shares := stated.get("distributed"):
        rows += [
            ("clients whose noise the guarantee uses", _shown(shares["counted_on"])),
            ("answers below which a round aborts", _shown(shares["must_answer"])),
            ("share assumed to be honest", f"{shares['honest_share']:g}"),
        ]
    if stated["simulated"]:
        rows.insert(0, ("about", stated["simulated"]))
    epsilons = [
        {"rounds": rounds[when], "when": when, **stated["epsilon"][when]}
        for when in ("spent", "planned")
    ]
    return {
        "rows": rows,
        "epsilons": epsilons,
        "covered": stated["covered"],
        "not_reported": stated["not_reported"],
        "not_covered": stated["not_covered"],
    }


def _dataset_rows(config: Mapping[str, Any], summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = config.get("dataset") or {}
    rows = [("name", _shown(data.get("name", summary.get("dataset"))))]
    labels = {"num_users": "users (clients)", "num_items": "items", "split": "split"}
    rows += [(label, _shown(data[key])) for key, label in labels.items() if key in data]
    parts = data.get("interactions") or {}
    rows += [(f"{part} interactions", _shown(count)) for part, count in parts.items()]
    rows += [
        (f"{m} features", f"{_shown(d)} wide") for m, d in (data.get("features") or {}).items()
    ]
    return [*rows, ("fingerprint", _shown(data.get("fingerprint")))]


def _flag_groups(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Flags by group: each with its default, whether it differs from that, and why it has no
    effect."""
    flags = config.get("flags") or {}
    defaults = config.get("defaults") or {}
    groups = {str(name): dict(group) for name, group in (config.get("groups") or {}).items()}
    grouped = {flag for group in groups.values() for flag in group}
    if loose := {flag: value for flag, value in flags.items() if flag not in grouped}:
        groups["other" if groups else "flags"] = loose
    listed = []
    for name, group in groups.items():
        rows = [
            {
                "flag": flag,
                "value": _shown(value),
                "default": _shown(defaults.get(flag)),
                "changed": flag in defaults and value != defaults[flag],
                "unused": (config.get("unused") or {}).get(flag),
            }
            for flag, value in group.items()
        ]
        listed.append({"name": name, "rows": rows})
    return listed


def _timing_rows(
    summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    timing = summary.get("timing") or {}
    rows = []
    for key, (label, unit) in _TIMING_LABELS.items():
        if timing.get(key) is not None:
            seconds = timing[key]
            rows.append((label, f"{seconds:,.1f} s" if unit == "s" else f"{1e3 * seconds:,.1f} ms"))
    if summary.get("peak_rss_mb") is not None:
        rows.append(("peak resident memory", f"{summary['peak_rss_mb']:,.0f} MB"))
    participants = [line["participants"] for line in metrics if line.get("participants")]
    if participants:
        rows.append(("median participants of a round", f"{np.median(participants):,.0f}"))
    return rows


def _version_rows(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(str(name), _shown(value)) for name, value in (config.get("versions") or {}).items()]
    return [
        *rows,
        ("commit", _shown(config.get("commit"))),
        ("device", _shown(config.get("device"))),
    ]


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
