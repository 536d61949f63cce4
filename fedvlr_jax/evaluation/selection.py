"""The slice of targets that methods on a data set are compared on, and selected on."""

from __future__ import annotations

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import slices
from fedvlr_jax.selection import Selection


def judged_slice(dataset: Dataset) -> str:
    """ "warm" for a data set with cold and warm test targets, else "all"."""
    found = slices(dataset, "test")
    return "warm" if found["cold"].any() and found["warm"].any() else "all"


def resolve_selection(selection: Selection, dataset: Dataset) -> Selection:
    """Resolves the slice "auto" of a selection to `judged_slice`.

    If that slice has no validation target, "auto" becomes "all".

    Raises:
      InputError: the selection names a slice without a validation target.
    """
    found = {name: bool(select.any()) for name, select in slices(dataset, "valid").items()}
    if selection.slice == "auto":
        judged = judged_slice(dataset)
        return selection._replace(slice=judged if found[judged] else "all")
    # Without any validation target there is no selection; the caller reports that.
    if found["all"] and not found[selection.slice]:
        raise InputError(
            f"--select={selection.slice}_{selection.metric_name}: {dataset.name} has no "
            f"{selection.slice} validation target; name another slice"
        )
    return selection
