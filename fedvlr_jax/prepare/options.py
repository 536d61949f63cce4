"""The options of `prepare`."""

from __future__ import annotations

import dataclasses

import numpy as np

from fedvlr_jax.config import check_choice
from fedvlr_jax.config.prepare import DUPLICATE_NAMES, HEADER_NAMES, RECIPE_NAMES, SPLIT_NAMES
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.columns import UNUSED

# Values of --time: the order of the lines, and a random order.
LINES, RANDOM = "lines", "random"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `prepare`; the command has a flag of each name.

    Attributes:
      user, item, rating, time: names or positions (from 1) of columns; "" to find them; "none" for
        no rating. For the time, "lines" uses the order of the lines, and "random" draws an order.
      columns: the roles of all columns in order; "" to find them. See `choose_columns`.
      separator, header: see `table_of`.
      time_format, time_decimals: see `TimeFormat`.
      items: the file of items; "" to look in the folder of the interactions, "none" for none.
      item_id, title: the columns of the file of items; "" to find them.
      duplicates: the row to keep of equal (user, item) pairs, see `without_repeats`.
      min_rating: the lowest rating to keep; None: keep all.
      max_users: the number of users to draw; 0: keep all.
      seed: the seed of that draw, and of a random order.
      min_user_interactions, min_item_interactions: the minimum counts of the k-core.
      split: the split column to write, see `split_rows`; "none": the loader splits.
      recipe: "mmrec" applies MMRec's preprocessing, see `mmrec_recipe`.
    """

    user: str = ""
    item: str = ""
    rating: str = ""
    time: str = ""
    columns: str = ""
    separator: str = ""
    header: str = "auto"
    time_format: str = ""
    time_decimals: int = 0
    items: str = ""
    item_id: str = ""
    title: str = ""
    duplicates: str = "first"
    min_rating: float | None = None
    max_users: int = 0
    seed: int = 0
    min_user_interactions: int = 5
    min_item_interactions: int = 1
    split: str = "none"
    recipe: str = "none"

    def __post_init__(self) -> None:
        check_choice("header", self.header, HEADER_NAMES)
        check_choice("duplicates", self.duplicates, DUPLICATE_NAMES)
        check_choice("split", self.split, SPLIT_NAMES)
        check_choice("recipe", self.recipe, RECIPE_NAMES)
        for name in ("max_users", "seed", "min_user_interactions", "min_item_interactions"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name}={getattr(self, name)}: give a number of at least 0")
        if self.time == UNUSED:
            raise InputError(
                "--time=none: no split is possible without an order; give --time=lines for the "
                "order of the lines, or --time=random to draw one"
            )
        if not 0 <= self.time_decimals <= 9:
            raise InputError(f"--time_decimals={self.time_decimals}: give a number from 0 to 9")
        if self.time_format and self.time_decimals:
            raise InputError(
                "--time_decimals: needs times that are numbers, but --time_format is given"
            )
        for name in ("time_format", "time_decimals"):
            if getattr(self, name) and self.time in (LINES, RANDOM):
                raise InputError(
                    f"--{name}: does nothing with --time={self.time}, which reads no times; leave "
                    "one of them out"
                )
        if self.min_rating is not None and not np.isfinite(self.min_rating):
            raise InputError(f"--min_rating={self.min_rating}: give a finite number")
