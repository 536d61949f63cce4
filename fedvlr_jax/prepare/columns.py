"""Finds the columns of a table that are the user, the item, the rating and the time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from fedvlr_jax.data.faults import shown
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.dates import iso_format
from fedvlr_jax.prepare.tables import Table, first_line, plain_column, records

ROLES = ("user", "item", "rating", "time")
UNUSED = "none"

# Names in lower case without separators. From one line, the first name that the table has is used.
# If a table has names of two lines of one role, the user must choose.
_NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "user": (
        ("userid", "user", "uid", "usersid"),
        ("reviewerid", "reviewer"),
        ("customerid", "customer"),
        ("visitorid",),
        ("profileid",),
        ("memberid", "member"),
        ("authorid", "author"),
        ("clientid", "client"),
        ("buyerid", "buyer"),
        ("accountid", "account"),
        ("playerid",),
        ("viewerid",),
    ),
    "item": (
        ("parentasin", "asin"),
        ("itemid", "item", "iid"),
        ("movieid", "movie"),
        ("productid", "product"),
        ("businessid", "business"),
        ("bookid", "book", "isbn"),
        ("gameid", "game", "appid"),
        ("trackid", "songid", "artistid"),
        ("videoid", "vid"),
        ("newsid", "articleid"),
        ("recipeid",),
        ("goodsid", "sku", "stockcode"),
        ("animeid",),
        ("listingid",),
        ("restaurantid", "venueid", "placeid", "poiid", "locationid"),
        ("postid", "contentid"),
    ),
    "rating": (
        ("rating", "ratings", "overall", "stars", "score", "bookrating", "starrating"),
        ("reviewrating", "reviewscore", "ratingvalue"),
    ),
    "time": (
        ("timestamp", "unixreviewtime", "unixtime", "unixtimestamp", "time", "ts"),
        ("eventtimestamp", "eventtime", "timestampcreated", "timestampms"),
        ("date", "datetime", "createdat", "reviewtime", "reviewdate", "ratingdate"),
        ("purchasetime", "purchasedate", "orderdate", "invoicedate", "tdat"),
    ),
}
# The known names of the column of each role.
NAMES_OF = {role: tuple(name for line in lines for name in line) for role, lines in _NAMES.items()}
# All known names of columns.
KNOWN = frozenset(name for names in NAMES_OF.values() for name in names)
_SAMPLE = 10_000
# Seconds from 1970 to 1980. Smaller numbers may be ids, such as those of Steam users.
_SMALLEST_TIME = 315_532_800
_LARGEST_RATING = 100
_MOST_RATINGS = 21


class Columns(NamedTuple):
    """The name of the column of each role; "" for a role without column."""

    user: str
    item: str
    rating: str
    time: str


def choose_columns(
    table: Table,
    *,
    given: Mapping[str, str],
    order: str,
    item_ids: Collection[str] | None,
    notes: list[str],
) -> Columns:
    """Finds the four columns.

    Args:
      given: role -> the name or the position (from 1) of its column, "none" for no column, "" to
        find it.
      order: the roles of all columns in order, such as "user,item,rating,time"; "-" for a column
        that is not used; "" to find them.
      item_ids: the ids in the item file; they identify the item column of a file without header.
        None without an item file.
      notes: the function appends a line for each choice that the user did not make.

    Raises:
      InputError: no column or several columns could be the user or the item.
    """
    named = order or (given["user"] and given["item"])
    if not named and (hint := _of_lists(table)):
        raise InputError(f"{table.path}, row 1: {hint}")
    if table.kind == "delimited" and len(table.columns) == 1:
        raise InputError(
            f"{table.path}, row 1: found {shown(first_line(table.path))}, a line of one field; "
            "expected a user and an item; give the separator, such as --separator=space, or remove "
            "the lines before the header"
        )
    found = _from_order(table, order) if order else _from_names(table, given, notes)
    for role in ROLES:
        if given[role]:
            found[role] = "" if given[role] == UNUSED else _column(table, role, given[role])
    by_values = table.kind == "delimited" and not table.header and not order
    if by_values and not (found["user"] and found["item"]):
        _from_values(table, found, given, item_ids, notes)
    for role in ("user", "item"):
        if not found[role]:
            raise InputError(
                f"{table.path}, row 1: no column is known to be the {role}; the columns are "
                f"{_listed(table)}; name it with --{role}=NAME"
            )
    taken = [column for column in found.values() if column]
    for column in taken:
        if taken.count(column) > 1:
            roles = " and ".join(f"--{r}" for r in ROLES if found[r] == column)
            raise InputError(f"{roles}: both are column {column} of {table.path.name}; name two")
    return Columns(**{role: found[role] for role in ROLES})


# A line with more whole numbers than this, between blanks, is a user and a list of items.
_MOST_NUMBERS = 4
_WRITE_PAIRS = (
    "write one line for each interaction first; docs/data.md, 'Lines with several items', has the "
    "command"
)


def _of_lists(table: Table) -> str:
    """The remedy for a file whose lines have several items; "" for other files."""
    if table.kind != "delimited" or table.header:
        return ""
    line = first_line(table.path)
    numbers = line.split()
    if len(numbers) > _MOST_NUMBERS and all(map(str.isdecimal, numbers)) and "\t" not in line:
        return f"found {shown(line)}, a user and its items, as LightGCN writes them; {_WRITE_PAIRS}"
    last = line.split("\t")[-1].split()
    if line.count("\t") == 4 and last and all(name.endswith(("-0", "-1")) for name in last):
        return f"found the impressions of MIND in column 5; {_WRITE_PAIRS}"
    return ""


def _listed(table: Table) -> str:
    return ", ".join(table.columns)[:200]


def _column(table: Table, role: str, named: str) -> str:
    if named in table.columns:
        return named
    if named.isdigit() and table.kind == "delimited":
        if 1 <= int(named) <= len(table.columns):
            return table.columns[int(named) - 1]
        raise InputError(
            f"--{role}={named}: {table.path.name} has the columns 1 to {len(table.columns)}"
        )
    raise InputError(
        f"--{role}={named}: {table.path.name} has no such column; it has {_listed(table)}"
    )


def _from_order(table: Table, order: str) -> dict[str, str]:
    roles = [role.strip() for role in order.split(",")]
    for role in roles:
        if role not in (*ROLES, "-") or (role != "-" and roles.count(role) > 1):
            raise InputError(
                f"--columns={order}: found {shown(role)}; give each of user, item, rating and "
                "time at most once, and - for a column that is not used"
            )
    if len(roles) != len(table.columns):
        raise InputError(
            f"--columns={order}: names {len(roles)} columns, but {table.path} has "
            f"{len(table.columns)}"
        )
    found = dict.fromkeys(ROLES, "")
    return found | {r: c for r, c in zip(roles, table.columns, strict=True) if r != "-"}


def _from_names(table: Table, given: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    found = dict.fromkeys(ROLES, "")
    if table.kind == "delimited" and not table.header:
        return found
    plain: dict[str, list[str]] = {}
    for column in table.columns:
        plain.setdefault(plain_column(column), []).append(column)
    for role, lines in _NAMES.items():
        if given[role]:
            continue
        likely = [[column for name in line for column in plain.get(name, ())] for line in lines]
        likely = [names for names in likely if names]
        # Such as USER_ID and user_id.
        alike = (plain[name] for line in lines for name in line if len(plain.get(name, ())) > 1)
        candidates = next(alike, [line[0] for line in likely])
        if len(candidates) > 1 and role in ("user", "item"):
            names = " and ".join(candidates)
            raise InputError(
                f"{table.path}, row 1: columns {names} could both be the {role}; name it with "
                f"--{role}={candidates[0]}"
            )
        if likely:
            found[role] = likely[0][0]
        others = [name for line in likely for name in line][1:]
        notes += [
            f"{table.path.name}: the {role} is {found[role]}, not {other}" for other in others
        ]
    return found


def _from_values(
    table: Table,
    found: dict[str, str],
    given: Mapping[str, str],
    item_ids: Collection[str] | None,
    notes: list[str],
) -> None:
    """Finds the columns of a file without header from their values."""
    if table.separator == "::" or table.path.name == "u.data":
        for role, column in zip(ROLES, table.columns, strict=False):
            found[role] = found[role] or ("" if given[role] == UNUSED else column)
        notes.append(f"{table.path.name}: columns taken in MovieLens' order {','.join(ROLES)}")
        return
    sample = _sample(table)
    open_columns = [c for c in table.columns if c not in found.values()]
    for role, fits in (("time", _like_times), ("rating", _like_ratings)):
        likely = [c for c in open_columns if fits(sample[c])]
        if not found[role] and given[role] != UNUSED and likely:
            found[role] = likely[-1]
            open_columns.remove(likely[-1])
    if not found["item"] and item_ids is not None:
        shares = {c: _share(sample[c], item_ids) for c in open_columns}
        best = max(shares, key=lambda c: shares[c], default="")
        rest = max((share for c, share in shares.items() if c != best), default=0.0)
        if best and shares[best] > 0.5 and rest < shares[best] / 2:
            found["item"] = best
            open_columns.remove(best)
            notes.append(
                f"{table.path.name}: column {best} is the item, because {shares[best]:.0%} of its "
                "values are ids of the item file (--columns overrides this)"
            )
    if not found["user"] and found["item"] and len(open_columns) == 1:
        found["user"] = open_columns[0]
    if found["user"] and not found["item"] and len(open_columns) == 1:
        found["item"] = open_columns[0]
    if not (found["user"] and found["item"]):
        first = (table.separator).join(values[0] for values in sample.values())
        raise InputError(
            f"{table.path}, row 1: found {shown(first)}, which has no known name of a column; "
            f"columns {', '.join(open_columns)} could each be the user: if this row is data, give "
            f"--columns={_example(table, found)} with user and item in the right order; if it has "
            "the names of the columns, give --header=yes with --user=NAME and --item=NAME"
        )
    order = [next((r for r in ROLES if found[r] == c), "-") for c in table.columns]
    notes.append(f"{table.path.name}: no header; columns taken as {','.join(order)}")


def _example(table: Table, found: dict[str, str]) -> str:
    names = {found[role]: role for role in ("rating", "time") if found[role]}
    missing = iter(["user", "item"])
    return ",".join(names.get(c) or next(missing, "-") for c in table.columns)


def _sample(table: Table) -> dict[str, list[str]]:
    first = next(table.blocks())
    text = first.text[: 1 << 20].decode("utf-8", "ignore")
    if len(first.text) > 1 << 20:
        text = text.rpartition("\n")[0]
    rows = [fields for _, fields in records(table, text, first.line)][:_SAMPLE]
    return {name: [row[i].strip() for row in rows] for i, name in enumerate(table.columns)}


def _numbers(values: list[str]) -> list[float] | None:
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _like_times(values: list[str]) -> bool:
    numbers = _numbers(values)
    if numbers is None:
        return all(iso_format(value) for value in values)
    return min(numbers, default=0) >= _SMALLEST_TIME


def _like_ratings(values: list[str]) -> bool:
    numbers = _numbers(values)
    if not numbers or not all(abs(x) <= _LARGEST_RATING for x in numbers):
        return False
    # Ids may be small numbers too; ratings have few distinct values.
    return len(set(numbers)) <= _MOST_RATINGS


def _share(values: list[str], ids: Collection[str]) -> float:
    return sum(value in ids for value in values) / max(1, len(values))
