"""The figures of a run's training: values against rounds. Each is an <svg> text, or None without
data.

Percentages come from the lines of metrics.jsonl and are drawn unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fedvlr_jax.report.axes import SLICE_COLOURS
from fedvlr_jax.report.results import METRIC_LABELS, slice_of
from fedvlr_jax.report.svg import MUTED, PAPER, draw, series_colour


def loss_curve(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Training loss against rounds, one point per evaluation."""
    rounds, values = _series(metrics, lambda line: line.get("loss"))
    if not rounds:
        return None
    labels = {"title": "Training loss", "ylabel": "mean loss of the clients"}
    return _curve("Training loss against rounds", rounds, values, **labels)


def clipped_curve(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """The share of uploads that --clip_norm shortened; None if it shortened none."""
    rounds, values = _series(metrics, lambda line: line.get("clipped"))
    if not any(values):
        return None
    percent = [100 * value for value in values]
    labels = {"title": "Clipped uploads", "ylabel": "% of the uploads", "ylim": (0, 100)}
    return _curve("Share of clipped uploads against rounds", rounds, percent, **labels)


def _curve(name: str, rounds: list[int], values: list[float], **labels: Any) -> str:
    """One line against rounds; `labels` of its axes."""

    def paint(axes: Axes) -> None:
        axes.plot(rounds, values, color=series_colour(0), marker=_marker(rounds), markersize=4)
        axes.set(xlabel="round", **labels)
        _round_axis(axes, rounds)

    return draw(name, paint)


def validation_curve(
    metrics: Sequence[Mapping[str, Any]],
    metric: str,
    selected_round: int | None,
    selected_slice: str = "all",
) -> str | None:
    """A validation metric of all and of warm targets, with a mark at the selected round.

    Args:
      selected_slice: the slice that selected the round; "warm" marks the line of warm targets.
    """
    rounds, values = _series(metrics, lambda line: (line.get("valid") or {}).get(metric))
    if not rounds:
        return None
    warm_rounds, warm = _series(
        metrics, lambda line: slice_of(line.get("valid") or {}, "warm").get(metric)
    )
    two = bool(warm) and warm != values
    by_warm = two and selected_slice == "warm" and selected_round in warm_rounds
    label = METRIC_LABELS[metric]

    def paint(axes: Axes) -> None:
        blue, orange = SLICE_COLOURS["all"], SLICE_COLOURS["warm"]
        if two:
            axes.plot(
                warm_rounds,
                warm,
                color=orange,
                linestyle="--",
                marker=_marker(warm_rounds),
                markersize=4,
                label="warm targets",
            )
        axes.plot(
            rounds, values, color=blue, marker=_marker(rounds), markersize=4, label="all targets"
        )
        axes.set(title=f"Validation {label}", xlabel="round", ylabel=f"{label} (%)")
        at, found = (warm_rounds, warm) if by_warm else (rounds, values)
        if selected_round in at:
            best, colour = found[at.index(selected_round)], orange if by_warm else blue
            axes.axvline(selected_round, color=MUTED, linewidth=0.9, linestyle=":")
            axes.plot([selected_round], [best], "o", color=colour, mec=PAPER, mew=1.5, markersize=9)
            axes.set_title(f"{best:.1f} % at round {selected_round}", loc="right", color=colour)
        if two:
            axes.legend(loc="best")
        _round_axis(axes, rounds)

    return draw(f"Validation {label} against rounds", paint)


def _series(
    metrics: Sequence[Mapping[str, Any]], value_of: Callable[[Mapping[str, Any]], Any]
) -> tuple[list[int], list[float]]:
    """The rounds and values of the lines with a value."""
    points = [(line["round"], value_of(line)) for line in metrics]
    points = [(r, v) for r, v in points if v is not None]
    return [r for r, _ in points], [v for _, v in points]


def _marker(rounds: list[int]) -> str:
    return "o" if len(rounds) <= 15 else ""


def _round_axis(axes: Axes, rounds: list[int]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    if len(rounds) == 1:  # Else the axis would show fractions of a round.
        axes.set_xlim(rounds[0] - 1, rounds[0] + 1)
