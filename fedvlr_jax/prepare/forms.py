"""Finds the files of interactions and of items among the files of a data set."""

from __future__ import annotations

import re
from pathlib import Path

from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.columns import KNOWN, NAMES_OF
from fedvlr_jax.prepare.opening import plain_name
from fedvlr_jax.prepare.tables import plain_column, table_of

# (name of the form, pattern of the file of interactions, name of the file of items). The first
# pattern that a folder matches is used. The name of the items refers to groups of the pattern.
_KNOWN = (
    ("RecBole", r"(.+)\.inter", r"\1.item"),
    ("MovieLens", r"ratings\.dat", "movies.dat"),
    ("MovieLens", r"ratings\.csv", "movies.csv"),
    ("MovieLens", r"u\.data", "u.item"),
    ("NineRec", r"(.+)_pair\.(csv|tsv)", r"\1_item.\2"),
    ("MMRec", r"inter\.(csv|tsv)", "items.csv"),
)
_AMAZON_ITEMS = (r"meta_\1.jsonl", r"meta_\1.json", r"meta_\1.csv")
_KINDS = "csv|tsv|txt|dat|jsonl?|ndjson|parquet|pq"
_TABLE = re.compile(rf"(?P<stem>.+?)(_5)?\.({_KINDS})")
_ANY_ITEMS = re.compile(rf"items?\.({_KINDS})")
_NOT_INTERACTIONS = re.compile(
    r"meta_.*|movies\..*|items?\..*|.*_items?\..*|.*_id_mapping\.csv|users\..*|links\..*|tags\..*"
    r"|genome.*|readme.*|manifest\.json"
)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def find_interactions(given: Path, notes: list[str]) -> Path:
    """The file of interactions: `given` itself, or the only one in the folder `given`.

    Of several files without a usual name, the only one with a column of users and one of items.

    Args:
      notes: the function appends a line if it chose among several files.

    Raises:
      InputError: no file or several files could be the interactions.
    """
    if given.is_file():
        return given
    if not given.is_dir():
        raise InputError(f"--input={given}: no such file or folder")
    files = _files(given)
    for _, pattern, _ in _KNOWN:
        found = [path for path in files if re.fullmatch(pattern, plain_name(path))]
        if found:
            return _only(given, found)
    found = [
        path
        for path in files
        if _TABLE.fullmatch(plain_name(path)) and not _NOT_INTERACTIONS.fullmatch(plain_name(path))
    ]
    # An archive of one file is read; another one is refused with the command that unpacks it.
    found = found or [path for path in files if path.suffix.lower() == ".zip"]
    if not found:
        raise _no_interactions(given, files)
    named = [path for path in found if _names_both(path)] if len(found) > 1 else []
    if len(named) == 1:
        notes.append(
            f"{named[0].name}: the interactions, because only this file of {given.name} has a "
            "column of users and one of items"
        )
    return _only(given, named or found)


def _no_interactions(given: Path, files: list[Path]) -> InputError:
    folders = sorted(path for path in given.iterdir() if path.is_dir())
    listed = ", ".join([*(path.name for path in files), *(f"{path.name}/" for path in folders)])
    example = folders[0] if folders and not files else given / "FILE.csv"
    return InputError(
        f"--input={given}: no file of interactions among {listed[:200] or 'no files'}; name it, "
        f"e.g. --input={example}"
    )


def _names_both(path: Path) -> bool:
    """Whether the file has a column with a known name of users, and one of items."""
    try:
        table = table_of(path, known=KNOWN)
    except InputError:
        return False
    columns = {plain_column(column) for column in table.columns}
    return not any(columns.isdisjoint(NAMES_OF[role]) for role in ("user", "item"))


def _only(folder: Path, found: list[Path]) -> Path:
    if len(found) > 1:
        names = ", ".join(path.name for path in found)[:200]
        raise InputError(
            f"--input={folder}: {names} could each be the interactions; name one, "
            f"e.g. --input={found[0]}, or join them into one file if they are parts of one table"
        )
    return found[0]


def find_items(interactions: Path) -> Path | None:
    """The file of items with the usual name in the same folder; None if it does not exist."""
    name = plain_name(interactions)
    beside = {plain_name(path): path for path in _files(interactions.parent)}
    for _, pattern, items in _KNOWN:
        match = re.fullmatch(pattern, name)
        if match and match.expand(items) in beside:
            return beside[match.expand(items)]
    match = _TABLE.fullmatch(name)
    for template in _AMAZON_ITEMS if match else ():
        expected = template.replace(r"\1", match["stem"]) if match else ""
        if expected in beside:
            return beside[expected]
    others = [path for plain, path in sorted(beside.items()) if _ANY_ITEMS.fullmatch(plain)]
    return others[0] if len(others) == 1 and others[0] != interactions else None


def form_of(interactions: Path) -> str:
    """The name of the form that a file name belongs to; "table" for any other file name."""
    name = plain_name(interactions)
    return next((form for form, pattern, _ in _KNOWN if re.fullmatch(pattern, name)), "table")
