"""The figures of a run's routers. Each is an <svg> text, or None without data.

Weights are shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedvlr_jax.report.axes import group_ticks, legend_below, view_colour
from fedvlr_jax.report.labels import shorten
from fedvlr_jax.report.results import in_group, merged_groups
from fedvlr_jax.report.svg import GRID, INK, draw

# Maximum numbers of marks: more do not fit on a screen.
MOST_CLIENTS_DRAWN = 400
MOST_POINTS_DRAWN = 800


def router_strip(users: Mapping[str, np.ndarray], views: Sequence[str]) -> str | None:
    """Every client's view weights as one stack. Sorts the clients by the view that varies most.

    Draws at most `MOST_CLIENTS_DRAWN` clients, evenly spaced in that order.
    """
    weights = _weights(users, "router_weights", views)
    if weights is None:
        return None
    first = int(weights.std(axis=0).argmax())
    order = np.lexsort((*weights.T, weights[:, first]))[::-1]
    chosen = order[_evenly_spaced(len(order), MOST_CLIENTS_DRAWN)]
    stacked = [first, *(g for g in range(len(views)) if g != first)]
    tops = np.cumsum(weights[chosen][:, stacked], axis=1)
    edges = np.linspace(0, len(weights), len(chosen) + 1)

    def paint(axes: Axes) -> None:
        bottom = np.zeros(len(chosen))
        for column, view in enumerate(stacked):
            axes.stairs(
                tops[:, column],
                edges,
                baseline=bottom,
                fill=True,
                color=view_colour(view),
                linewidth=0,
            )
            bottom = tops[:, column]
        sorted_by = f"clients, sorted by the weight of {views[first]}"
        if len(chosen) < len(weights):
            sorted_by += f" ({len(chosen)} of {len(weights):,} drawn)"
        axes.set(title="Router weights of each client", xlabel=sorted_by, ylabel="weight")
        axes.set(xlim=(0, len(weights)), ylim=(0, 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(visible=False)
        patches = [Patch(color=view_colour(g), label=shorten(views[g])) for g in stacked]
        legend_below(axes, patches)

    return draw("Router weights of each client, stacked", paint)


def router_by_activity(
    users: Mapping[str, np.ndarray], views: Sequence[str], groups: Sequence[str]
) -> str | None:
    """Mean weight of each view, plus and minus one standard deviation over clients.

    Args:
      users: the arrays of users.npz.
      views: G view names, the columns of "router_weights".
      groups: activity groups by their names in a summary, such as "11-20" and "501+".
    """
    weights = _weights(users, "router_weights", views)
    if weights is None or "history_length" not in users:
        return None
    length = users["history_length"]
    by_group = {name: in_group(length, name) for name in groups}
    joined = merged_groups({name: int(chosen.sum()) for name, chosen in by_group.items()})
    members = {
        name: np.any([by_group[each] for each in names], axis=0) for name, names in joined.items()
    }
    if not members:
        return None

    def paint(axes: Axes) -> None:
        places, thickness = np.arange(len(members)), 0.8 / len(views)
        for g, view in enumerate(views):
            axes.bar(
                places + (g - (len(views) - 1) / 2) * thickness,
                [weights[chosen, g].mean() for chosen in members.values()],
                0.9 * thickness,
                yerr=[weights[chosen, g].std() for chosen in members.values()],
                color=view_colour(g),
                ecolor=INK,
                error_kw={"linewidth": 1},
                label=shorten(view),
            )
        group_ticks(axes, {name: int(chosen.sum()) for name, chosen in members.items()})
        axes.set(title="Router weights by activity", ylabel="weight (mean ± sd)")
        axes.set_ylim(bottom=0)
        legend_below(axes)

    return draw("Mean router weights by activity group", paint)


def planted_scatter(
    users: Mapping[str, np.ndarray], views: Sequence[str], view: str, spearman: float | None
) -> str | None:
    """Learned against planted weight of one view, one point per client (synthetic data only).

    Draws at most `MOST_POINTS_DRAWN` clients; `spearman` is over all clients.
    """
    learned = _weights(users, "router_weights", views)
    planted = _weights(users, "planted", views)
    if learned is None or planted is None or view not in views:
        return None
    g = list(views).index(view)
    if np.isnan(planted[:, g]).any():  # A fused view: no preference for it is planted.
        return None
    shown = _evenly_spaced(len(learned), MOST_POINTS_DRAWN)

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2)
        axes.plot(
            planted[shown, g],
            learned[shown, g],
            linestyle="none",
            marker="o",
            color=view_colour(g),
            alpha=0.45,
            markersize=4,
            markeredgewidth=0,
        )
        axes.set(title=f"View: {shorten(view)}", xlabel="planted weight", ylabel="learned weight")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        if spearman is not None:
            spread = learned[:, g].std()
            axes.set_title(f"Spearman {spearman:.2f}, sd {spread:.3f}", loc="right")

    return draw(f"Learned against planted weight of {view}", paint, width=3.6, height=3.2)


def _weights(users: Mapping[str, np.ndarray], name: str, views: Sequence[str]) -> np.ndarray | None:
    """float64 [N, G]; None if there are no weights for `views`."""
    weights = np.asarray(users.get(name, np.zeros((0, 0))), np.float64)
    fits = weights.ndim == 2 and len(weights) > 0 and weights.shape[1] == len(views)
    return weights if fits else None


def _evenly_spaced(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
