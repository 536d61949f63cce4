"""Sessions from a file."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.fleet.availability import Availability


def from_trace(trace: str, num_clients: int) -> Availability:
    """Sessions from the CSV file `trace` with the columns client, start, end; times in s from 0.

    Clients are numbered from 0, in the order of the data set. After its last end, the trace starts
    again. A session that begins where another one of its client ends continues it; so does one that
    begins at 0 where another one has the last end. A file that has not changed is read once, for
    the clock and for its expected reports.

    Raises:
      InputError: a row is invalid, or a client has no session. The message names it.
    """
    path = Path(trace)
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
    return _from_unchanged_trace(trace, num_clients, stamp)


@functools.lru_cache(maxsize=2)
def _from_unchanged_trace(
    trace: str, num_clients: int, stamp: tuple[int, int] | None
) -> Availability:
    """`from_trace`; `stamp` is the time and the size of the file."""
    table = _read_trace(Path(trace), num_clients)
    client, start, end = (table[name].to_numpy() for name in ("client", "start", "end"))
    order = np.lexsort((start, client))
    client, start, end = client[order], start[order], end[order]
    period, share = float(end.max()), float((end - start).sum() / (end.max() * num_clients))
    same = client[1:] == client[:-1]
    overlap = np.flatnonzero(same & (start[1:] < end[:-1]))
    if len(overlap):
        row = int(order[overlap[0] + 1])
        raise InputError(
            f"--trace={trace}: row {row + 1}: begins before the client's session before it ends; "
            "join the two"
        )
    missing = np.setdiff1d(np.arange(num_clients), client)
    if len(missing):
        raise InputError(
            f"--trace={trace}: {len(missing)} of {num_clients} clients have no session, the first "
            f"is {missing[0]}; give each client at least one, also the hostile ones of --attack, "
            "which are behind the users"
        )
    client, start, end = _joined(client, start, end)
    # One sorted array over all clients: client c's starts are in [2 c period, 2 c period + period).
    key = 2 * client * period + start

    def until(seed: int, clients: np.ndarray, time: float) -> np.ndarray:
        within = time % period
        last = np.searchsorted(key, 2 * clients * period + within, side="right") - 1
        last = np.maximum(last, 0)
        inside = (client[last] == clients) & (start[last] <= within) & (end[last] > within)
        return np.where(inside, time - within + end[last], time)

    return Availability(until, max(share, 1e-6))


def _joined(
    client: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sessions, sorted by client and start, with those joined that touch.

    The end of a session that goes on when the trace starts again is after the trace's end; it is
    inf for a client who is always available.
    """
    period = end.max()
    apart = (client[1:] != client[:-1]) | (start[1:] > end[:-1])
    begins, ends = np.append(True, apart), np.append(apart, True)
    client, start, end = client[begins], start[begins], end[ends]
    first = np.flatnonzero(np.append(True, client[1:] != client[:-1]))
    last = np.append(first[1:], len(client)) - 1
    over = (start[first] == 0) & (end[last] == period)
    end[last[over]] = np.where(first == last, np.inf, period + end[first])[over]
    return client, start, end


def _read_trace(path: Path, num_clients: int) -> pd.DataFrame:
    """The rows of a trace, each checked.

    Raises:
      InputError: the file cannot be read, or a row is invalid.
    """
    where = f"--trace={path}"
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: cannot be read: {reason(error)}") from None
    if list(table.columns) != ["client", "start", "end"]:
        found = ",".join(map(str, table.columns))
        raise InputError(f"{where}: found the columns {found}; expected client,start,end")
    if not len(table):
        raise InputError(f"{where}: has no session")
    numbers = table.apply(pd.to_numeric, errors="coerce")
    whole = np.isfinite(numbers.to_numpy(float)).all(axis=1)
    checks = {
        "a value is missing or not a finite number": ~whole,
        f"the client is unknown; clients are 0 to {num_clients - 1}": (numbers["client"] < 0)
        | (numbers["client"] >= num_clients)
        | (numbers["client"] % 1 != 0),
        "the start is below 0, or the end is not after it": (numbers["start"] < 0)
        | (numbers["end"] <= numbers["start"]),
    }
    for what, wrong in checks.items():
        rows = np.flatnonzero(np.asarray(wrong))
        if len(rows):
            found = ",".join(map(str, table.iloc[rows[0]].tolist()))
            raise InputError(f"{where}: row {rows[0] + 1} ({found}): {what}")
    return numbers.astype({"client": np.int64, "start": float, "end": float})
