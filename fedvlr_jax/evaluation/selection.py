"""The slice of the targets that a data set is judged on, and selection by it."""

from __future__ import annotations

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import slices
from fedvlr_jax.selection import Selection


def judged_slice(dataset: Dataset) -> str:
    """ "warm" for a data set with cold and warm test targets, else "all"."""
    found = slices(dataset, "test")
    return "warm" if found["cold"].any() and found["warm"].any() else "all"


def for_dataset(selection: Selection, dataset: Dataset) -> Selection:
    """The selection with its slice resolved: "auto" is the slice that the data set is judged on.

    Where that slice has no validation target, "auto" is all targets.

    Raises:
      InputError: a slice was named that has no validation target.
    """
    found = {name: bool(select.any()) for name, select in slices(dataset, "valid").items()}
    if selection.slice == "auto":
        judged = judged_slice(dataset)
        return selection._replace(slice=judged if found[judged] else "all")
    # Without any validation target nothing is selected, and the caller says so.
    if found["all"] and not found[selection.slice]:
        raise InputError(
            f"--select={selection.slice}_{selection.metric_name}: {dataset.name} has no "
            f"{selection.slice} validation target; name another slice"
        )
    return selection
