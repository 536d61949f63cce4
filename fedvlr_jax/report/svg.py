"""Draws a figure as a small SVG that takes its colours from the page around it.

It draws placeholder colours and replaces them by `var(--plot-..., fallback)`. A page may set the
variables (for a dark scheme); an SVG without a page shows the fallbacks. Text stays text.
The same figure gives the same bytes: no date, no version, no counted ids.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Placeholders: near-black colours that no figure uses.
INK, MUTED, GRID, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
# Okabe and Ito's palette, which colour-blind readers can distinguish, darkest contrasts first.
_SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#b5a900")
_FALLBACK = {INK: "#1f2933", MUTED: "#5f6b7a", GRID: "#d9dee5", PAPER: "#ffffff"}
_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}

_STYLE: Any = {  # matplotlib types each key by its literal name
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "hatch.linewidth": 0.8,
}


def series_colour(place: int) -> str:
    """The colour of the series number `place`; colours repeat after eight."""
    return _SERIES[place % len(_SERIES)]


def draw(
    title: str, paint: Callable[[Axes], None], *, width: float = 4.8, height: float = 3.1
) -> str:
    """A figure of one pair of axes as an <svg> element.

    Args:
      title: the figure's name for screen readers; `paint` sets the visible title.
      paint: draws on the axes. Text is plain: no mathematics, no markup.
      width, height: in inches, at 72 units an inch; the page may scale it.
    """
    # The title salts the ids of clips and markers, so that figures of one page share none.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}), warnings.catch_warnings():
        # The page draws the text with its own fonts, so a missing glyph here does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing)
    return _clean(buffer.getvalue(), title)


def _clean(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:href=\"|url\()#([\w-]+)", svg))
    svg = re.sub(r"<[^>]*>", lambda tag: _clean_tag(tag[0], used), svg)
    # Keep only the view box of the size, and use the page's font.
    view = re.search(r'viewBox="[^"]*"', svg)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening = f'<svg {names} {view[0] if view else ""} role="img">\n<title>{escape(title)}</title>'
    svg = re.sub(r"^<svg[^>]*>", lambda _: opening, svg)
    svg = svg.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
    return re.sub(r"\n\s*", "\n", _page_colours(svg))


def _clean_tag(tag: str, used: set[str]) -> str:
    """A tag without an id that nothing refers to, and with numbers to a hundredth."""
    tag = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", tag)
    return re.sub(r"(?<=\d\.\d\d)\d+", "", tag)


def _page_colours(svg: str) -> str:
    for colour, name in _NAMES.items():
        svg = svg.replace(colour, f"var(--plot-{name}, {_FALLBACK[colour]})")
    for place, colour in enumerate(_SERIES, 1):
        svg = svg.replace(colour, f"var(--plot-{place}, {colour})")
    return svg
