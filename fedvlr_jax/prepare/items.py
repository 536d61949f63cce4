"""Reads the file of items: titles, and addresses of pictures."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedvlr_jax.data.faults import fault
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.columns import NAMES_OF
from fedvlr_jax.prepare.tables import Table, plain_column, small_rows, table_of

# Names without "id", such as "movie", may be those of the title, so "id" comes before them.
_IDS = (
    *(name for name in NAMES_OF["item"] if name.endswith(("id", "asin"))),
    "id",
    *(name for name in NAMES_OF["item"] if not name.endswith(("id", "asin"))),
)
_KINDS = ("item", "movie", "game", "book", "news", "product", "video", "track", "song", "artist")
TITLES = (
    *("title", *(f"{kind}title" for kind in _KINDS), "headline", "originaltitle"),
    *("name", *(f"{kind}name" for kind in _KINDS), "prodname", "businessname", "recipename"),
)
_IMAGES = ("images", "imageurlhighres", "imageurl", "imurl", "image")
# The encoding of item files that are not UTF-8.
_OLD_ENCODING = "latin-1"


class Item(NamedTuple):
    """One item.

    Attributes:
      title: the title on one line, with HTML entities decoded; "" without a title.
      image: the address of the first picture; "" without a picture.
    """

    title: str
    image: str


def read_items(
    path: Path, *, id_column: str = "", title_column: str = "", notes: list[str]
) -> dict[str, Item]:
    """Reads the file of items: original item id -> `Item`.

    Args:
      id_column, title_column: names or positions (from 1); "" to find them. In a file without
        header, the first column is the id. The title is the second column of a MovieLens file, and
        the last column of other files (the English title in NineRec).
      notes: the function appends lines about the columns, about repeated items, about titles with
        HTML entities and about a file that is not UTF-8.

    Raises:
      InputError: a column is missing, an id is empty, or a row has a wrong number of fields.
    """
    given = {plain_column(name) for name in (id_column, title_column) if name}
    table = table_of(path, known={*_IDS, *TITLES, *given})
    identity = _find(table, _IDS, id_column) or (table.columns[0] if not table.header else "")
    title = _find(table, TITLES, title_column) or _title_by_place(table)
    if not identity:
        raise InputError(
            f"{path}, row 1: no column is known to be the item's id; the columns are "
            f"{', '.join(table.columns)[:200]}; name it with --item_id=NAME; "
            "--items=none leaves the file out"
        )
    image = _find(table, _IMAGES, "")
    items: dict[str, Item] = {}
    repeated = decoded = 0
    for row, fields in small_rows(table, fallback=_OLD_ENCODING, notes=notes):
        key = _id(fields.get(identity))
        if not key:
            raise fault(path, row, identity, None, "the id of an item")
        repeated += key in items
        raw = _text(fields.get(title))
        readable = _text(html.unescape(raw))
        decoded += readable != raw
        items.setdefault(key, Item(readable, _first_address(fields.get(image))))
    if repeated:
        notes.append(f"{path.name}: {repeated} rows repeat an item; the first row of each is used")
    if decoded:
        notes.append(f"{path.name}: {decoded} titles have HTML entities such as &amp;, now decoded")
    titles = f"titles from column {title}" if title else "no titles"
    unused = [column for column in table.columns if column not in (identity, title, image)]
    rest = f"; columns not used: {', '.join(unused)[:200]}" if unused else ""
    notes.append(f"{path.name}: {len(items)} items, {titles}{rest}")
    return items


def _find(table: Table, names: tuple[str, ...], given: str) -> str:
    if given:
        if given in table.columns:
            return given
        if given.isdigit() and 1 <= int(given) <= len(table.columns):
            return table.columns[int(given) - 1]
        raise InputError(
            f"{table.path}: no column {given}; the columns are {', '.join(table.columns)[:200]}"
        )
    plain = {plain_column(column): column for column in reversed(table.columns)}
    return next((plain[name] for name in names if name in plain), "")


def _title_by_place(table: Table) -> str:
    if table.header or table.kind != "delimited" or len(table.columns) < 2:
        return ""
    movielens = table.separator in ("::", "|")
    return table.columns[1 if movielens else len(table.columns) - 1]


def _id(value: Any) -> str:
    """An id as `read_interactions` reads it; "" for a missing one."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _text(value: Any) -> str:
    """A value on one line; "" for a missing one, and ? for half a character of JSON."""
    line = "" if value is None else " ".join(str(value).split())
    return line.encode("utf-8", "replace").decode()


def _first_address(value: Any) -> str:
    """The first address in a value: a text, a mapping of sizes, or a list of such values."""
    if isinstance(value, Mapping):
        sizes = (value.get(size) for size in ("hi_res", "large", "thumb"))
        return next((_first_address(size) for size in sizes if size), "")
    if isinstance(value, list):
        return next((address for part in value if (address := _first_address(part))), "")
    return _text(value)
