"""What the report says of bytes, simulated time, energy and hostile clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from fedvlr_jax.report.svg import draw, series_colour


def cost_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of the costs, and of the attack where there was one."""
    costs = summary.get("costs") or {}
    rows = []
    if per_client := costs.get("client_round_bytes"):
        rows.append(("down, a client and round", f"{per_client['down'] / 1e3:,.1f} kB"))
        rows += [
            (f"up, {scheme}", f"{size / 1e3:,.1f} kB") for scheme, size in per_client["up"].items()
        ]
    if secure := costs.get("secure_sum"):
        rows += [
            ("secure sum, up", f"{secure['up'] / 1e3:,.1f} kB"),
            ("secure sum, down beside the broadcast", f"{secure['down'] / 1e3:,.1f} kB"),
            ("secure sum, neighbours", f"{secure['neighbours']:,}"),
            ("secure sum, messages a round", f"{secure['message_rounds']}"),
            ("aborted rounds", f"{secure['aborted_rounds']:,}"),
        ]
    if "simulated_h" in costs:
        energy = costs["energy"]
        rows += [
            ("sampled / reported in time", f"{costs['sampled']:,} / {costs['responded']:,}"),
            ("bytes down / up", f"{costs['bytes_down']:.3g} / {costs['bytes_up']:.3g}"),
            ("simulated hours", f"{costs['simulated_h']:.2f}"),
            ("client hours, of them in vain", _share(costs["client_h"], costs["wasted_share"])),
            ("energy, an estimate", f"{energy['total_wh']:,.3g} Wh"),
            ("CO2e, an estimate", f"{energy['co2e_g']:,.3g} g"),
            ("Gini of participation", f"{costs['participation_gini']:.2f}"),
        ]
    if tiers := summary.get("tiers"):
        rows.append(("largest difference of tiers", f"{100 * tiers['largest_difference']:.0f} %"))
    if attack := summary.get("attack"):
        rows += [
            ("hostile clients", f"{attack['hostile']:,}"),
            ("ER@10 at the end", f"{attack['er@10']:.3f}"),
            ("ER@10 of the selected round", f"{attack['selected']['er@10']:.3f}"),
        ]
    return rows


def _share(hours: float, wasted: float) -> str:
    return f"{hours:,.2f}, {100 * wasted:.0f} %"


def cost_curves(summary: Mapping[str, Any]) -> list[str]:
    """Validation NDCG@50 against simulated hours, bytes and Wh; none without a clock."""
    points = [
        point
        for point in (summary.get("costs") or {}).get("curve") or []
        if point["ndcg@50"] is not None
    ]
    if not points:
        return []
    axes = {"hours": "simulated hours", "bytes": "bytes, down and up", "wh": "Wh, an estimate"}
    return [_against(points, name, label) for name, label in axes.items()]


def _against(points: list[Mapping[str, Any]], name: str, label: str) -> str:
    title = f"Validation NDCG@50 against {label}"

    def paint(axes: Axes) -> None:
        x, y = ([point[key] for point in points] for key in (name, "ndcg@50"))
        axes.plot(x, y, color=series_colour(0), marker="o", markersize=4)
        axes.set(title="Validation NDCG@50", xlabel=label, ylabel="NDCG@50 (%)")

    return draw(title, paint)
