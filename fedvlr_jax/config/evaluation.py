"""Evaluation and selection."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError
from fedvlr_jax.selection import HEADLINE, Selection, parse_selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Evaluation and selection. The protocol sets the mask and the pool of negatives together."""

    protocol: str = choice(
        "strict",
        "Evaluation protocol. strict: ranking masks train and valid items, and negatives come "
        "from the whole catalogue; paper: ranking masks train items, and negatives come from "
        "items seen in train.",
        ("paper", "strict"),
    )
    ks: str = choice("10,20,50", "Cut-offs K of the metrics, comma-separated. 50 is always added.")
    select: str = choice(
        "auto",
        "Validation metric that selects rounds and settings. auto: ndcg@50. A metric at a "
        "cut-off, e.g. ndcg@20, uses the warm targets if the data set has cold ones, else all. A "
        "prefix names the targets, e.g. warm_hr@10 or all_ndcg@50.",
    )
    eval_every: int = choice(5, "Number of rounds between two evaluations on validation.")
    patience: int = choice(
        10,
        "Training stops after this many evaluations without a better value of --select. 0: it "
        "never stops early.",
        resumable=True,
    )
    baselines: bool = choice(True, "Evaluates the baselines too.", resumable=True)
    tune_baselines: bool = choice(
        True,
        "Tunes each baseline: tries nine settings and selects one on validation by --select. "
        "false: uses the default setting, which is faster.",
        resumable=True,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, "eval_every", 1)
        check_range(self, "patience", 0)
        parse_selection(self.select)
        try:
            ks = self.cutoffs
        except ValueError:
            ks = ()
        if not ks or min(ks) < 1:
            raise InputError(f"--ks={self.ks}: give positive integers, e.g. 10,20,50")

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """The cut-offs of --ks, the headline and --select, ascending."""
        given = {int(k) for k in self.ks.split(",")}
        return tuple(sorted({*given, HEADLINE, self.selection.cutoff}))

    @property
    def selection(self) -> Selection:
        """--select, parsed; for the slice "auto" see `evaluation.selection.resolve_selection`."""
        return parse_selection(self.select)

    @property
    def mask(self) -> str:
        """The parts that the ranking of the test part masks: 'train' or 'train+valid'."""
        return "train" if self.protocol == "paper" else "train+valid"

    @property
    def negative_pool(self) -> str:
        """The pool of the negatives: 'seen' (items seen in train) or 'catalogue'."""
        return "seen" if self.protocol == "paper" else "catalogue"
