"""The files of a run and their presentation: progress, tables, plots, the page.

This room imports no JAX, so any machine can make the report from a run directory again.
It reads and writes these files; percentages are not rounded:

`config.json`
  {"flags": {flag: value}, "groups": {"data": {flag: value}, ...}, "defaults": {flag: value},
  "unused": {flag: why it has no effect}, "versions": {"python": "3.11.7", ...}, "commit",
  "device", "command", "dataset": {"name", "fingerprint", "num_users", "num_items",
  "interactions": {"train": n, "valid": n, "test": n}, "features": {modality: width}, "split",
  "notes": [text, ...]}}

`metrics.jsonl`, one line per evaluation
  {"round", "loss", "participants", "clipped": means over the rounds since the evaluation
  before, "valid": {"hr@50", "ndcg@50", "warm": {...}, ...}, "best_round"}

`summary.json`
  {"dataset", "protocol", "backbone", "fusion" ("own" for one that was made elsewhere), "seed",
  "select", "selected_round", "rounds_run", "stopped": "patience" | "rounds", "valid": S, "test":
  S, "baselines": {name: {test S's keys, "valid": S, options such as "l2"} or {"skipped":
  reason}}, "paired": of `training.summary.paired_with_baselines`, "cold_items": {"items",
  "share_tied"}, "views": [G names], "router": {"mean": [G], "by_activity": {group: [G]}, and of
  `training.summary.router_spread`} or null, "planted_spearman": {view: rho} or null, "timing":
  {"first_block_s", "round_s_median", "eval_s_median", "total_s"}, "peak_rss_mb", "costs": of
  `training.costs.summarise_costs`; with a simulated clock "tiers": of
  `training.costs.metrics_by_tier`; with hostile clients "attack": of
  `training.summary.summarise_attack`}; S is what `evaluation.metrics.summarise` returns, in
  percent.

  with --privacy also "privacy", the statement, as `privacy.statement` returns it.

`privacy.json`, with --privacy: the same statement, written before training

`ledger.json`, with --privacy: the spent rounds
  {"rounds", "noise_multiplier"}, with --init=spectral also {"exchanges",
  "exchange_noise_multiplier"}.

`users.npz`, one row per user, except for the ranks of the test targets
  "user_id" str [N], "history_length" int [N], "hr@50" and "ndcg@50" float [N] of the test
  part, in [0, 1], NaN for a user without a test target; "judged: ndcg@50" and "judged: hr@50"
  float32 [N] on the judged slice, and "NAME: ndcg@50", "NAME: hr@50" of each baseline on it;
  "ahead" and "tied" int [P], the number of items above each test target and of items tied with it;
  user u has the entries (by ascending item) from "target_indptr"[u] to "target_indptr"[u + 1],
  int [N + 1]; with a router, "router_weights" float [N, G] in the order of the summary's "views";
  for data with planted weights, "planted" float [N, G], its columns in the same order.

A function needs only the keys that it uses. For an absent key it shows a dash or omits a figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedvlr_jax.report.atomic_files import replace_file, replacing
from fedvlr_jax.report.progress import Progress
from fedvlr_jax.report.run_directory import RunDirectory
from fedvlr_jax.report.tables import print_summary, summary_table
from fedvlr_jax.report.workdir import locked

if TYPE_CHECKING:
    from fedvlr_jax.report.html import render_report

__all__ = [
    "Progress",
    "RunDirectory",
    "locked",
    "print_summary",
    "render_report",
    "replace_file",
    "replacing",
    "summary_table",
]


def __getattr__(name: str) -> Any:
    """Imports the page at its first use, because the import of Matplotlib takes half a second."""
    if name != "render_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fedvlr_jax.report.html import render_report

    return render_report
