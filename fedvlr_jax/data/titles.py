"""The titles of a data set's items, from items.csv in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedvlr_jax.data.faults import fault, shown
from fedvlr_jax.data.tables import read_table
from fedvlr_jax.errors import InputError


def read_titles(folder: Path, item_ids: Sequence[str]) -> np.ndarray | None:
    """The title of each item, on one line; "" for an item without title.

    Args:
      folder: the folder of the data set. Its items.csv has the columns itemID and title. The
        itemIDs are row numbers or original ids: the kind that more of them are. If equally many
        are of each kind, they are row numbers with i_id_mapping.csv, and original ids without,
        as those of the interactions.
      item_ids: the original ids, in the order of the rows.

    Returns:
      str [num_items]; None without items.csv or without a column title.

    Raises:
      InputError: the file cannot be read, repeats an item, or has an item that is not in the data
        set.
    """
    path = folder / "items.csv"
    if not path.exists():
        return None
    frame = read_table(path, text_only=True).frame
    if "itemID" not in frame.columns:
        raise InputError(f"{path}, row 1: no column itemID, expected itemID and title")
    if "title" not in frame.columns:
        return None
    keys = frame["itemID"].tolist()
    numbers = {str(place): place for place in range(len(item_ids))}
    originals = {str(item): place for place, item in enumerate(item_ids)}
    kinds = (numbers, originals)
    if not (folder / "i_id_mapping.csv").exists():
        kinds = (originals, numbers)
    place = max(kinds, key=lambda names: sum(key in names for key in keys))
    titles = np.full(len(item_ids), "", object)
    seen: set[str] = set()
    for row, (key, title) in enumerate(zip(keys, frame["title"], strict=True), start=2):
        if key not in place:
            right = f"one of the {len(item_ids)} items of the data set"
            raise fault(path, row, "itemID", key, right)
        if key in seen:
            raise InputError(f"{path}, row {row}, column itemID: item {shown(key)} occurs again")
        seen.add(key)
        titles[place[key]] = " ".join(title.split())
    return titles.astype(str)
