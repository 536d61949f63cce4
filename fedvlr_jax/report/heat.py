"""A table of shares in colours, as an <svg> text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from fedvlr_jax.report.svg import INK, PAPER, draw


def heat_table(title: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray) -> str:
    """Draws shares in [0, 1], [rows, columns], with their numbers. NaN is an empty cell."""

    def paint(axes: Axes) -> None:
        axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            text = "–" if np.isnan(value) else f"{value:.2f}"
            colour = PAPER if value > 0.5 else INK
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.grid(False)
        axes.set_title(title)

    return draw(title, paint)
