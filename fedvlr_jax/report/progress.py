"""Live progress of a run: a bar on a terminal, one line per evaluation elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich import progress as rich_progress
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from fedvlr_jax.selection import OF_ALL, Selection


class Progress:
    """Shows finished rounds.

        with Progress(100) as progress:
            progress.update(20, loss, valid_metrics, best_round, rounds_per_s)
            progress.note("stopped: no better validation NDCG@50 for 10 evaluations")

    On a terminal: a bar with the remaining time, and the newest numbers below it. Elsewhere (a
    log file, a pipe): one plain line per update, never wrapped. Notes stay above the bar.
    Text is printed unchanged; brackets in it are not markup.
    """

    def __init__(
        self,
        total_rounds: int,
        *,
        selection: Selection = OF_ALL,
        console: Console | None = None,
    ) -> None:
        """Args:
        total_rounds: maximum number of rounds.
        selection: the metric and slice that select the best round; shows numbers of this slice.
        console: the console to print on; by default stdout.
        """
        self._selection = selection
        self._total = total_rounds
        self._console = Console() if console is None else console
        self._reached: dict[int, float] = {}
        self._live: Live | None = None
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("round {task.completed:.0f}/{task.total:.0f}"),
            rich_progress.BarColumn(bar_width=None),
            rich_progress.TextColumn("{task.fields[left]}"),
            rich_progress.TimeElapsedColumn(),
            expand=True,
        )
        self._task = self._bar.add_task("", total=max(1, total_rounds), left="")

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live = Live(self._view(""), console=self._console, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(
        self,
        round: int,
        loss: float | None,
        metrics: Mapping[str, Any],
        best_round: int | None,
        rounds_per_s: float | None,
    ) -> None:
        """Shows an evaluation.

        Args:
          round: number of finished rounds.
          loss: mean training loss over the rounds since the last evaluation, if there was any.
          metrics: a validation summary in percent; shows HR@50 and NDCG@50 of the selection's
            slice.
          best_round: the best round so far by the selection, if any.
          rounds_per_s: speed, for the remaining time.
        """
        self.remember(round, metrics)
        fields = [] if loss is None else [f"loss {loss:.4f}"]
        fields += self._scores(metrics, best_round)
        if rounds_per_s:
            fields.append(f"{rounds_per_s:.3g} rounds/s")
        text = "  ".join(fields)
        if self._live is None:
            self._print(f"round {round}/{self._total}  {text}")
            return
        left = _duration((self._total - round) / rounds_per_s) if rounds_per_s else "?"
        self._bar.update(self._task, completed=round, left=f"{left} left")
        self._live.update(self._view(text), refresh=True)

    def remember(self, round: int, metrics: Mapping[str, Any]) -> None:
        """Records an evaluation of an earlier process without showing it; it may be the best."""
        value = self._selection.value(metrics)
        if value is not None:
            self._reached[round] = value

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        self._print(text)

    def _scores(self, metrics: Mapping[str, Any], best_round: int | None) -> list[str]:
        chosen = self._selection
        all_targets = chosen.slice in ("all", "auto")
        shown = metrics if all_targets else metrics.get(chosen.slice, {})
        valid = "valid" if all_targets else f"valid {chosen.slice}"
        named = ((f"{valid} HR@50", "hr@50"), ("NDCG@50", "ndcg@50"))
        fields = [f"{label} {shown[key]:.1f}" for label, key in named if key in shown]
        if best_round is not None:
            value = f"{self._reached[best_round]:.1f} " if best_round in self._reached else ""
            fields.append(f"best {value}@ {best_round}")
        return fields

    def _view(self, text: str) -> Group:
        return Group(self._bar, Text(text, style="dim", overflow="ellipsis", no_wrap=True))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
