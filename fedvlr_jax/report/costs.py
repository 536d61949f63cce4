"""Rows and figures of the report on bytes, simulated time, energy and hostile clients."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from fedvlr_jax.report.axes import legend_below
from fedvlr_jax.report.labels import telling
from fedvlr_jax.report.svg import draw, series_colour

# The axis of a cost is logarithmic where runs differ by more than this ratio.
LOG_RATIO = 10


def cost_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of the costs, and of the attack if there was one."""
    costs = summary.get("costs") or {}
    rows = []
    if per_client := costs.get("client_round_bytes"):
        rows.append(("down, a client and round", f"{per_client['down'] / 1e3:,.1f} kB"))
        rows += [
            (f"up, {scheme}", f"{size / 1e3:,.1f} kB") for scheme, size in per_client["up"].items()
        ]
    if before := costs.get("initialization_bytes"):
        rows.append(
            (
                "before the first round, down / up",
                f"{before['down'] / 1e3:,.1f} / {before['up'] / 1e3:,.1f} kB",
            )
        )
    if secure := costs.get("secure_sum"):
        rows += [
            ("secure sum, up", f"{secure['up'] / 1e3:,.1f} kB"),
            ("secure sum, down, without the broadcast", f"{secure['down'] / 1e3:,.1f} kB"),
            ("secure sum, neighbours", f"{secure['neighbours']:,}"),
            ("secure sum, messages a round", f"{secure['message_rounds']}"),
            ("aborted rounds", f"{secure['aborted_rounds']:,}"),
        ]
    if "simulated_h" in costs:
        energy = costs["energy"]
        rows += [
            ("sampled / reported in time", f"{costs['sampled']:,} / {costs['responded']:,}"),
            ("MB down / up", f"{_mb(costs['bytes_down'])} / {_mb(costs['bytes_up'])}"),
            ("simulated hours", f"{costs['simulated_h']:.2f}"),
            ("client hours, wasted share", _share(costs["client_h"], costs["wasted_share"])),
            ("energy, an estimate", f"{energy['total_wh']:,.3g} Wh"),
            ("CO2e, an estimate", f"{energy['co2e_g']:,.3g} g"),
            ("Gini of participation", f"{costs['participation_gini']:.2f}"),
            ("clients that never took part", _percent(costs.get("never_took_part"))),
        ]
        rows += [
            (
                f"hours, MB and Wh to {point['share']:.0%} of the best NDCG@50",
                f"{point['hours']:.2f} h, {_mb(point['bytes'])} MB, {point['wh']:,.3g} Wh",
            )
            for point in costs.get("reached", [])
        ]
    if "mean_staleness" in costs:
        rows.append(
            (
                "staleness, mean and largest",
                f"{costs['mean_staleness']:.1f}, {costs['max_staleness']}",
            )
        )
    rows += _tier_rows(summary.get("tiers") or {})
    if attack := summary.get("attack"):
        rows += [
            ("hostile clients", f"{attack['hostile']:,}"),
            ("ER@10 at the end", f"{attack['er@10']:.3f}"),
            ("ER@10 of the selected round", f"{attack['selected']['er@10']:.3f}"),
        ]
    return rows


def _tier_rows(tiers: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (
            f"{name} tier: users, HR@50 / NDCG@50",
            f"{tier['users']:,}, {tier['hr@50']:.1f} / {tier['ndcg@50']:.1f} %",
        )
        for name, tier in tiers.items()
        if name != "largest_difference" and "ndcg@50" in tier
    ]
    if tiers:
        rows.append(("largest difference of tiers", f"{100 * tiers['largest_difference']:.0f} %"))
    return rows


def _mb(size: float) -> str:
    return f"{size / 1e6:,.3g}" if size < 1e9 else f"{size / 1e6:,.0f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _share(hours: float, wasted: float) -> str:
    return f"{hours:,.2f}, {100 * wasted:.0f} %"


COST_AXES = {"hours": "simulated hours", "bytes": "bytes, down and up", "wh": "Wh, an estimate"}


def cost_curves(summary: Mapping[str, Any]) -> list[str]:
    """Validation NDCG@50 against simulated hours, bytes and Wh; none without a clock."""
    curve = (summary.get("costs") or {}).get("curve") or []
    return list(compared_curves({"": curve}).values())


def compared_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """{name in COST_AXES: <svg>} of validation NDCG@50 of some runs; {} without a number.

    Args:
      curves: {label: "curve" of the costs of a summary}; a label "" has no legend.
    """
    known = {
        label: [point for point in curve if point["ndcg@50"] is not None]
        for label, curve in curves.items()
    }
    known = {label: points for label, points in known.items() if points}
    if not known:
        return {}
    return {name: _against(known, name, label) for name, label in COST_AXES.items()}


def _against(curves: Mapping[str, Sequence[Mapping[str, Any]]], name: str, label: str) -> str:
    title = f"Validation NDCG@50 against {label}"
    labels = [textwrap.fill(run, 56) for run in telling(list(curves))]
    ends = [points[-1][name] for points in curves.values() if points[-1][name] > 0]

    def paint(axes: Axes) -> None:
        for place, (run, points) in enumerate(zip(labels, curves.values(), strict=True)):
            x, y = ([point[key] for point in points] for key in (name, "ndcg@50"))
            axes.plot(x, y, color=series_colour(place), marker="o", markersize=4, label=run)
        axes.set(title="Validation NDCG@50", xlabel=label, ylabel="NDCG@50 (%)")
        if ends and max(ends) > LOG_RATIO * min(ends):
            axes.set_xscale("symlog", linthresh=min(ends) / 10)
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if any(curves):
            legend_below(axes, columns=1)

    return draw(title, paint, height=3.1 + 0.3 * len(curves) * any(curves))
