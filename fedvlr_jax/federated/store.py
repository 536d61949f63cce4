"""Private rows of a population outside the device: in host memory or in files.

Only the rows of a cohort move. A client that never took part takes no memory: nothing writes its
place (zeroed memory that the system has not allocated, or a hole in a sparse file), and its initial
row is computed from the seed when it is needed.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import jax
import numpy as np

from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.types import PyTree

# Number of clients whose rows are copied at once; a copy of all rows would take too much memory.
ROWS_AT_ONCE = 256


def in_parts(rows: np.ndarray) -> list[np.ndarray]:
    """`rows` [n], split into the parts that are copied at once."""
    return np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE) or 1)


class _Table(Protocol):
    """Rows [N, ...] of one leaf."""

    def read(self, rows: np.ndarray) -> np.ndarray: ...

    def write(self, rows: np.ndarray, values: np.ndarray) -> None: ...

    def snapshot(self, rows: np.ndarray) -> np.ndarray:
        """A copy of these rows in the medium of the table: in memory, or a map of a file."""
        ...


class _Memory:
    """In host memory."""

    def __init__(self, num_rows: int, leaf: jax.ShapeDtypeStruct) -> None:
        self._values = np.zeros((num_rows, *leaf.shape), leaf.dtype)

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self._values[rows]

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        self._values[rows] = values

    def snapshot(self, rows: np.ndarray) -> np.ndarray:
        return self.read(rows)


class _File:
    """A table in a sparse file without a name; the system removes the file with the process.

    It reads and writes row by row without a map of the file. A full disk is then an error with a
    message, while a mapped page would end the process. Only the rows of a cohort count as memory of
    the process.
    """

    def __init__(self, num_rows: int, leaf: jax.ShapeDtypeStruct, folder: str) -> None:
        if not hasattr(os, "preadv"):
            raise InputError("--store=disk: this system cannot read at a place; use --store=host")
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self._file.truncate(num_rows * max(1, leaf.size * leaf.dtype.itemsize))
        self._leaf = leaf

    def read(self, rows: np.ndarray) -> np.ndarray:
        values = np.empty((len(rows), *self._leaf.shape), self._leaf.dtype)
        flat = values.reshape(len(rows), self._leaf.size).view(np.uint8)
        for row, into in zip(rows.tolist(), flat, strict=True):
            self._whole(os.preadv, into, row)
        return values

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        flat = np.ascontiguousarray(values).reshape(len(rows), self._leaf.size).view(np.uint8)
        for row, of in zip(rows.tolist(), flat, strict=True):
            self._whole(os.pwritev, of, row)

    def _whole(self, transfer: Callable[..., int], row: np.ndarray, at: int) -> None:
        """Repeats the call until all bytes of a row are moved: a full disk may move only a part."""
        done = 0
        while done < row.nbytes:
            moved = transfer(self._file.fileno(), [row.data[done:]], at * row.nbytes + done)
            if not moved:
                raise OSError(errno.EIO, f"only {done} of the {row.nbytes} bytes of a row")
            done += moved

    def snapshot(self, rows: np.ndarray) -> np.ndarray:
        copy = _File(len(rows), self._leaf, self._folder)
        for part in in_parts(np.arange(len(rows))):
            copy.write(part, self.read(rows[part]))
        shape = (len(rows), *self._leaf.shape)
        if 0 in shape:
            return np.zeros(shape, self._leaf.dtype)
        # Write the whole file, so that the disk need not allocate a page of the map later.
        return np.memmap(copy._file, self._leaf.dtype, "r", shape=shape)


class ClientStore:
    """The private rows of N clients, and which of them ever took part.

    The results of a round are staged part by part and become the clients' rows only at `commit`, so
    a failed round changes no row. In files each client has a second place for staged rows. In
    memory staged rows are separate arrays until the commit.

    Attributes:
      touched: bool [N], whether the store has a row of the client.
    """

    def __init__(self, client: PyTree, num_clients: int, folder: str | None = None) -> None:
        """`client`: shapes of ONE client's rows. `folder`: the folder of the files; None: memory.

        Raises:
          InputError: the files cannot be created in the folder.
        """
        leaves, self._structure = jax.tree.flatten(client)
        self._shapes = client
        self._folder = folder
        self.num_clients = num_clients
        self.touched = np.zeros(num_clients, bool)
        self._slot = np.zeros(num_clients, np.int64)
        self._staged: list[tuple[np.ndarray, Sequence[np.ndarray]]] = []
        self._tables: list[_Table] = []
        try:
            for leaf in leaves:
                table = (
                    _Memory(num_clients, leaf)
                    if folder is None
                    else _File(2 * num_clients, leaf, folder)
                )
                self._tables.append(table)
        except OSError as error:
            raise self._failed(error) from error
        except MemoryError as error:
            raise InputError(
                f"--store=host: {num_clients} clients do not fit in memory; use --store=disk"
            ) from error

    def _failed(self, error: OSError) -> InputError:
        return InputError(f"--store_dir={self._folder}: {reason(error)}")

    def _place(self, clients: np.ndarray) -> np.ndarray:
        """The places of the committed rows."""
        return clients + self._slot[clients] * self.num_clients

    def gather(self, clients: np.ndarray) -> PyTree:
        """The rows [K, ...] of some clients; zeros for those that never took part."""
        clients = np.asarray(clients, np.int64)
        known = np.flatnonzero(self.touched[clients])
        place = self._place(clients[known])
        leaves = []
        try:
            for table, shape in zip(self._tables, jax.tree.leaves(self._shapes), strict=True):
                rows = np.zeros((len(clients), *shape.shape), shape.dtype)
                rows[known] = table.read(place)
                leaves.append(rows)
        except OSError as error:
            raise self._failed(error) from error
        return jax.tree.unflatten(self._structure, leaves)

    def snapshot(self, without: Collection[str] = ()) -> tuple[np.ndarray, PyTree]:
        """The clients that ever took part [T], ascending, and a copy of their rows [T, ...]: in
        memory, or in maps of files that are removed with the maps.

        Args:
          without: names of the rows that are left out.

        Raises:
          InputError: the disk is full.
        """
        clients = np.flatnonzero(self.touched)
        place = self._place(clients)
        tables = jax.tree.unflatten(self._structure, self._tables)
        kept = {name: table for name, table in tables.items() if name not in without}
        try:
            return clients, jax.tree.map(lambda table: table.snapshot(place), kept)
        except OSError as error:
            raise self._failed(error) from error

    def stage(self, clients: np.ndarray, rows: PyTree) -> None:
        """Stages the new rows [K, ...] of some clients, each at most once until the commit.

        Raises:
          InputError: the disk is full; the committed rows are unchanged.
        """
        clients = np.asarray(clients, np.int64)
        leaves = jax.tree.leaves(rows)
        if self._folder is None:
            self._staged.append((clients, leaves))
            return
        place = clients + (1 - self._slot[clients]) * self.num_clients
        try:
            for table, leaf in zip(self._tables, leaves, strict=True):
                table.write(place, leaf)
        except OSError as error:
            raise self._failed(error) from error
        self._staged.append((clients, ()))

    def commit(self) -> np.ndarray:
        """Makes the staged rows the rows of their clients; returns these clients, int64."""
        committed = [np.zeros(0, np.int64)]
        while self._staged:
            clients, leaves = self._staged.pop()
            if self._folder is None:
                for table, leaf in zip(self._tables, leaves, strict=True):
                    table.write(clients, leaf)
            else:
                self._slot[clients] = 1 - self._slot[clients]
            self.touched[clients] = True
            committed.append(clients)
        return np.concatenate(committed)

    def discard(self) -> None:
        """Drops the staged rows."""
        self._staged.clear()

    def copy(self) -> ClientStore:
        """Another store of the same rows."""
        other = ClientStore(self._shapes, self.num_clients, self._folder)
        clients = np.flatnonzero(self.touched)
        for part in in_parts(clients):
            other.stage(part, self.gather(part))
            other.commit()
        return other
