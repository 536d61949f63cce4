"""How a state is judged."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError
from fedvlr_jax.selection import HEADLINE, Selection, parse_selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a state is judged. The protocol sets mask and negative pool together."""

    protocol: str = choice(
        "strict",
        "strict: mask train and valid, negatives from the whole catalogue; "
        "paper: mask train, negatives only from items seen in train.",
        ("paper", "strict"),
    )
    ks: str = choice(
        "10,20,50", "Cut-offs K of the metrics, comma-separated; 50, the headline, is always added."
    )
    select: str = choice(
        "auto",
        "What rounds and settings are chosen by on validation: a metric at a cut-off, of the slice "
        "that the data set is judged on (warm targets where there are cold ones), or of a named "
        "one, e.g. ndcg@20, warm_hr@10, all_ndcg@50; auto: ndcg@50.",
    )
    eval_every: int = choice(5, "Rounds between two evaluations on the validation part.")
    patience: int = choice(
        10,
        "Stop after this many evaluations without a better value of --select; 0 never stops.",
        resumable=True,
    )
    baselines: bool = choice(True, "Also evaluate the baselines.", resumable=True)
    tune_baselines: bool = choice(
        True,
        "Choose the setting of each baseline among nine on validation, by --select; false: its "
        "default, for speed.",
        resumable=True,
    )

    def __post_init__(self):
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
        """Those of --ks, the headline's and that of --select, ascending."""
        asked = {int(k) for k in self.ks.split(",")}
        return tuple(sorted({*asked, HEADLINE, self.selection.cutoff}))

    @property
    def selection(self) -> Selection:
        """--select; its slice may be "auto", see `evaluation.selection.for_dataset`."""
        return parse_selection(self.select)

    @property
    def mask(self) -> str:
        """What is masked when the test part is ranked: 'train' or 'train+valid'."""
        return "train" if self.protocol == "paper" else "train+valid"

    @property
    def negative_pool(self) -> str:
        """Where negatives come from: 'seen' or 'catalogue'."""
        return "seen" if self.protocol == "paper" else "catalogue"
