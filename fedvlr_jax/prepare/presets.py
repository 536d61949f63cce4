"""The seven data sets of the paper: their files, options and expected counts.

The paper (Table 1) gives counts and sources, and states that users with fewer than five
interactions are dropped. It does not state other steps; `unknown` names the consequences.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.opening import plain_name
from fedvlr_jax.prepare.options import Options
from fedvlr_jax.prepare.preparing import Prepared, prepare


class Preset(NamedTuple):
    """One data set of the paper.

    Attributes:
      name: the name in the paper.
      source: the origin of the files.
      files: the names of the file of interactions, in order of preference, without the suffix of
        a compression.
      options: the options of `prepare`.
      expected: the numbers of users, items and interactions in Table 1.
      licence: the terms of the owners.
      unknown: the part that cannot be reproduced.
    """

    name: str
    source: str
    files: tuple[str, ...]
    options: Options
    expected: tuple[int, int, int]
    licence: str
    unknown: str


_AMAZON_LICENCE = (
    "Amazon Reviews 2023 (McAuley Lab): no licence is stated; use it for research and cite Hou et "
    "al. 2024, 'Bridging Language and Items for Retrieval and Recommendation'"
)
_NINEREC_LICENCE = (
    "NineRec (Westlake University): research use; changed copies must not be offered for download; "
    "cite Zhang et al. 2023, 'NineRec: A Benchmark Dataset Suite for Evaluating Transferable "
    "Recommendation'"
)
_MOVIELENS_LICENCE = (
    "MovieLens (GroupLens): research use, no commercial use without permission; cite Harper and "
    "Konstan 2015, 'The MovieLens Datasets: History and Context'"
)
_FIVE_CORE = Options(min_user_interactions=5, min_item_interactions=5)
_AMAZON_UNKNOWN = (
    "The 5-core rating file gives the counts. The pictures of the metadata are addresses, which "
    "may be dead; the paper's CLIP features are not published"
)


def _ninerec(name: str, stem: str, expected: tuple[int, int, int]) -> Preset:
    return Preset(
        name=name,
        source=f"NineRec, {stem}: {stem}_pair.csv and {stem}_item.csv",
        files=(f"{stem}_pair.csv".lower(),),
        options=Options(min_user_interactions=5, min_item_interactions=1),
        expected=expected,
        licence=_NINEREC_LICENCE,
        unknown=(
            "The paper's counts are a part of NineRec's, and how the part was drawn is not stated: "
            "--any_counts keeps what your files give"
        ),
    )


PRESETS: dict[str, Preset] = {
    "amazon-beauty": Preset(
        "Beauty",
        "Amazon Reviews 2023, benchmark/5core/rating_only/All_Beauty.csv, meta_All_Beauty.jsonl",
        ("all_beauty.csv", "all_beauty.jsonl"),
        _FIVE_CORE,
        (253, 356, 2_535),
        _AMAZON_LICENCE,
        _AMAZON_UNKNOWN,
    ),
    "amazon-cards": Preset(
        "Cards",
        "Amazon Reviews 2023, benchmark/5core/rating_only/Gift_Cards.csv, meta_Gift_Cards.jsonl",
        ("gift_cards.csv", "gift_cards.jsonl"),
        _FIVE_CORE,
        (377, 129, 2_429),
        _AMAZON_LICENCE,
        _AMAZON_UNKNOWN,
    ),
    "movielens-small": Preset(
        "ML",
        "MovieLens, ml-latest-small: ratings.csv and movies.csv (the version of September 2018)",
        ("ratings.csv",),
        _FIVE_CORE,
        (610, 3_650, 90_274),
        _MOVIELENS_LICENCE,
        "The posters that the paper encodes are not part of MovieLens",
    ),
    "ninerec-ku": Preset(
        "KU",
        "NineRec, KU: KU_pair.csv and KU_item.csv",
        ("ku_pair.csv",),
        Options(min_user_interactions=5, min_item_interactions=1),
        (204, 560, 3_488),
        _NINEREC_LICENCE,
        "The released KU has 3,489 rows, of which five repeat another (--recipe=mmrec), so 3,484 "
        "distinct ones; the 3,488 of Table 1 is neither: --any_counts keeps what your files give",
    ),
    "ninerec-dance": _ninerec("Dance", "Bili_Dance", (10_231, 1_676, 80_086)),
    "ninerec-food": _ninerec("Food", "Bili_Food", (5_990, 1_125, 36_482)),
    "ninerec-movie": _ninerec("Movie", "Bili_Movie", (15_908, 2_528, 111_091)),
}


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
      InputError: no preset has the name.
    """
    if name not in PRESETS:
        raise InputError(f"--preset={name}: not known; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def prepare_preset(
    name: str,
    source: str | Path,
    output: str | Path,
    *,
    changes: dict[str, Any] | None = None,
    any_counts: bool = False,
    overwrite: bool = False,
) -> Prepared:
    """`prepare` with the options of a preset.

    Args:
      name: one of `PRESETS`.
      source: the folder with the files that the preset names, or the file of interactions.
      changes: options that replace those of the preset.
      any_counts: accept counts that differ from the paper.

    Raises:
      InputError: as `prepare`; also if the folder has no such file or the counts differ from the
        paper.
    """
    preset = find_preset(name)
    options = dataclasses.replace(preset.options, **(changes or {}))
    described = {
        "preset": name,
        "paper": {
            "name": preset.name,
            **dict(zip(("users", "items", "interactions"), preset.expected, strict=True)),
            "asserted": not any_counts,
        },
        "licence": preset.licence,
        "unknown": preset.unknown,
    }
    return prepare(
        _interactions(preset, name, Path(source)),
        output,
        options,
        overwrite=overwrite,
        expected=None if any_counts else preset.expected,
        described=described,
    )


def _interactions(preset: Preset, name: str, source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise InputError(f"--input={source}: no such file or folder")
    files = {plain_name(path): path for path in sorted(source.iterdir()) if path.is_file()}
    for wanted in preset.files:
        if wanted in files:
            return files[wanted]
    raise InputError(
        f"--input={source}: --preset={name} reads {preset.source}; found "
        f"{', '.join(path.name for path in files.values())[:200] or 'no files'}"
    )
