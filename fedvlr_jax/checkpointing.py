"""Checkpoints that a run can trust: written aside, sealed last, verified before use.

A checkpoint is a directory `round_00000020` holding `state` (orbax), `meta.json`, and the
manifest of `sealing.py`. Orbax notices neither flipped bits nor another dtype, and takes a
stray directory for the latest step; here a directory that is not whole to the bit is no
checkpoint, and the newest one that is whole is used.

A run saves the tree {"state": ..., "best": ...} of two packed states, each {"server":
ServerState, "clients": int32 [T], "private": leaves [T, ...]}: row r of a private leaf belongs
to client clients[r]. A client without a row has its initial one. Where a run ended between two
multiples of --eval_every, with its best state, "best_before_end" is the best one before.

Each checkpoint has all of its bytes for itself. A best state that did not change is written
again, not linked: one flipped bit in shared files would take every checkpoint that is kept.
Only within a checkpoint is what is the same stored once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from fedvlr_jax import sealing
from fedvlr_jax.errors import InputError
from fedvlr_jax.sealing import Damaged
from fedvlr_jax.settings import PRNG
from fedvlr_jax.trees import is_key, named_leaves
from fedvlr_jax.types import PyTree

STATE, META = "state", "meta.json"
# An array costs orbax about 1 ms, whatever its size, and a state has a hundred small ones:
# those up to so many bytes are stored as one, behind each other in the order of "leaves".
SMALL_BYTES = 1 << 20
PACKED = "packed"
# A larger leaf is stored in blocks of rows, so that neither to write it nor to read it has
# all of it to be in memory: see `SavedRows`.
BLOCK_BYTES = 1 << 26
# Trained floats shrink by a fifth; looking for it takes longer than all else in a save. A
# database of chunks is for far more files than one a leaf; what is given to orbax is nobody else's.
_ARRAYS = ocp.options.ArrayOptions(
    saving=ocp.options.ArrayOptions.Saving(use_compression=False, use_ocdbt=False)
)
_MEMORY = ocp.options.MemoryOptions(deepcopy_host_arrays=False)
_STEP = re.compile(r"round_([0-9]{8,})")

logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


def _kinds(leaves: dict[str, Any]) -> dict[str, list]:
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in leaves.items()}


def _num_bytes(kind: Sequence[Any]) -> int:
    shape, dtype = kind
    return math.prod(shape) * jnp.dtype(dtype).itemsize


def _copy_packed(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What orbax stores, nobody else's by now: large leaves apart, the small ones in one."""
    numbers = [jax.random.key_data(x) if is_key(x) else x for x in leaves.values()]
    host = dict(zip(leaves, jax.device_get(numbers), strict=True))
    small = [x.reshape(-1).view(np.uint8) for x in host.values() if x.nbytes <= SMALL_BYTES]
    # What was gathered for this save is nobody else's: device_get gave it back as it is.
    given = lambda name, x: x is leaves[name] and (x.flags.owndata or isinstance(x, np.memmap))
    copy = lambda name, x: x if given(name, x) else np.array(x)
    packed = {name: copy(name, x) for name, x in host.items() if x.nbytes > SMALL_BYTES}
    return {**packed, PACKED: np.concatenate(small)} if small else packed


class Block(NamedTuple):
    """The rows start to stop of a leaf, and the name that they are stored under."""

    name: str
    start: int
    stop: int


def _blocks(name: str, kind: Sequence[Any], most: float) -> list[Block]:
    """How a leaf that is stored apart is cut: into as many rows as `most` bytes hold, at least
    one, where it is larger."""
    shape, size = kind[0], _num_bytes(kind)
    if size <= most or not shape:
        return [Block(name, 0, shape[0] if shape else 1)]
    rows = max(1, int(most // (size // shape[0])))
    starts = range(0, shape[0], rows)
    return [Block(f"{name}@{start}", start, min(start + rows, shape[0])) for start in starts]


def _in_blocks(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What orbax stores, large leaves cut into views of their blocks."""
    cut = {}
    for name, array in arrays.items():
        most = math.inf if name == PACKED else BLOCK_BYTES
        for block in _blocks(name, (array.shape, array.dtype), most):
            cut[block.name] = array[block.start : block.stop] if array.ndim else array
    return cut


class Layout(NamedTuple):
    """Where the leaves of a checkpoint lie, those apart that another stands for.

    Attributes:
      offset: where each small leaf begins in the packed bytes, `packed` of them in all.
      blocks: of each other leaf.
    """

    offset: dict[str, int]
    packed: int
    blocks: dict[str, list[Block]]

    @property
    def names(self) -> list[str]:
        """All that orbax stored."""
        cut = [block.name for blocks in self.blocks.values() for block in blocks]
        return [*cut, PACKED] if self.offset else cut

    def is_cut(self, name: str) -> bool:
        return name in self.blocks and self.blocks[name][0].name != name


def _layout(meta: Mapping[str, Any]) -> Layout:
    sizes = {n: _num_bytes(k) for n, k in meta["leaves"].items() if n not in meta["same_as"]}
    offset, packed = {}, 0
    for name, size in sizes.items():
        if size <= meta["small_bytes"]:
            offset[name] = packed
            packed += size
    # Before schema 4 nothing was cut.
    most = meta.get("block_bytes", math.inf)
    blocks = {n: _blocks(n, meta["leaves"][n], most) for n in sizes if n not in offset}
    return Layout(offset, packed, blocks)


class RowsLater(jax.ShapeDtypeStruct):
    """In `Checkpoints.load`: a leaf [T, ...] that is wanted as NumPy rows or as `SavedRows`."""


class SavedRows:
    """A leaf [T, ...] of a checkpoint, whose rows are read when they are asked for.

    `rows[3:7]` or `rows[np.array([5, 2])]` is an array of these rows. The block that was read last
    is held, and no other.
    """

    def __init__(
        self, kind: Sequence[Any], blocks: Sequence[Block], read: Callable[[Block], np.ndarray]
    ):
        self.shape, self.dtype = tuple(kind[0]), jnp.dtype(kind[1])
        self._blocks, self._read = blocks, read
        self._starts = np.array([block.start for block in blocks])
        self._held: tuple[Block, np.ndarray] | None = None

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        asked = np.arange(self.shape[0])[rows]
        values = np.empty((len(asked), *self.shape[1:]), self.dtype)
        block_of = np.searchsorted(self._starts, asked, side="right") - 1
        for number in np.unique(block_of):
            block, here = self._blocks[number], block_of == number
            if self._held is None or self._held[0] != block:
                self._held = None
                self._held = block, self._read(block)
            values[here] = self._held[1][asked[here] - block.start]
        return values


def _store(step: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Orbax's part of a save: of several processes all take part, and the first writes."""
    with ocp.Context(array_options=_ARRAYS, memory_options=_MEMORY):
        ocp.save(step / STATE, _in_blocks(arrays))


def _step_name(round_number: int) -> str:
    return f"round_{round_number:08d}"


def _plain(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves, or shape structs, as they are stored: typed keys travel as their numbers."""
    shapes = lambda leaf: jax.eval_shape(jax.random.key_data, leaf)
    return {name: shapes(leaf) if is_key(leaf) else leaf for name, leaf in leaves.items()}


def _check_space(directory: Path, size: int) -> None:
    """Raises OSError where the disk, a quota or a limit does not take `size` bytes.

    Asked before orbax is: it answers a full disk with a traceback for every leaf.
    """
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=directory) as file:
            os.posix_fallocate(file.fileno(), 0, size)


class Checkpoints:
    """The checkpoints of one run, newest last.

    Args:
      directory: where they lie; made at the first save.
      keep: how many of the newest are kept.
      keep_best: how many more are kept for their score, the highest first.

    Attributes:
      ended: `time.perf_counter()` at the end of the last save; None before the first has
        ended, and while one is under way.
    """

    def __init__(self, directory: Path, *, keep: int = 2, keep_best: int = 0):
        self.directory = Path(directory).absolute()
        self._keep, self._keep_best = keep, keep_best
        self.ended: float | None = None
        self._saving: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._verified: set[int] = set()

    def rounds(self) -> list[int]:
        """Rounds that have a directory, ascending; whether they are whole is not looked at."""
        if not self.directory.is_dir():
            return []
        names = [path.name for path in self.directory.iterdir()]
        rounds = [int(match[1]) for match in map(_STEP.fullmatch, names) if match]
        return sorted(r for r in rounds if _step_name(r) in names)

    def path(self, round_number: int) -> Path:
        return self.directory / _step_name(round_number)

    def save(
        self, round_number: int, tree: PyTree, meta: Mapping[str, Any], score: float = 0.0
    ) -> None:
        """Saves in the background; `tree` may be donated as soon as this returns.

        NumPy arrays that own their memory, and maps of files, are handed over and must not be
        changed any more; all else is copied first. A leaf that stands in several places, as the
        same object, is stored once.

        Of several processes all have to call it, with the same tree; the first one writes.

        Waits for a save that is still under way, and raises if that one failed. Once it is
        whole, what is newer than it (damaged, or stray) and what need not be kept is removed.

        Args:
          meta: JSON values to keep beside the tree.
          score: what `keep_best` goes by, the higher the better.

        Raises:
          InputError: the disk cannot take it; older checkpoints are untouched.
        """
        self.wait()
        self.ended = None
        self._verified.clear()
        leaves = named_leaves(tree)
        first: dict[int, str] = {}
        same_as = {name: first.setdefault(id(leaf), name) for name, leaf in leaves.items()}
        stored = {name: leaf for name, leaf in leaves.items() if same_as[name] == name}
        # The only copy is made while training waits.
        arrays = _copy_packed(stored)
        kinds = _kinds(_plain(leaves))
        content = json.dumps(
            {
                **meta,
                "score": score,
                "small_bytes": SMALL_BYTES,
                "block_bytes": BLOCK_BYTES,
                "leaves": kinds,
                "same_as": {name: other for name, other in same_as.items() if other != name},
            }
        )

        def work() -> None:
            try:
                if jax.process_index() == 0:
                    self._write(round_number, arrays, content)
                    self._remove_others(round_number)
                else:
                    _store(self.path(round_number), arrays)
            except BaseException as error:
                self._failure = error
            self.ended = time.perf_counter()

        self._saving = threading.Thread(target=work, name="checkpoint")
        self._saving.start()
        if jax.process_count() > 1:
            # Orbax meets the other processes on the devices: not beside the training.
            self.wait()

    def _write(self, round_number: int, arrays: dict[str, np.ndarray], meta: str) -> None:
        step = self.path(round_number)
        self._remove(step)
        step.mkdir(parents=True)
        try:
            _check_space(step, sum(array.nbytes for array in arrays.values()) + len(meta))
            _store(step, arrays)
            (step / META).write_text(meta, encoding="utf-8")
            sealing.seal(step, round=round_number)
        except BaseException:
            # On a full disk the torn save would take the place of the next one.
            self._remove(step)
            raise
        sealing.sync(self.directory)

    def _remove_others(self, newest: int) -> None:
        # Only what is sealed takes a place: a stray directory must not push a save out.
        sealed = [r for r in self.rounds() if r <= newest and sealing.is_sealed(self.path(r))]
        older = sealed[: -self._keep]
        best = sorted(older, key=self._score)[max(0, len(older) - self._keep_best) :]
        for round_number in set(self.rounds()) - {*sealed[-self._keep :], *best}:
            self._remove(self.path(round_number))

    def _score(self, round_number: int) -> float:
        try:
            return float(self.read_meta(round_number)["score"])
        except (OSError, ValueError, KeyError, TypeError):
            return -np.inf

    def clear(self) -> None:
        """Removes every checkpoint, and the directory where it holds nothing else."""
        self.wait()
        for round_number in self.rounds():
            self._remove(self.path(round_number))
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    @staticmethod
    def _remove(step: Path) -> None:
        if step.is_symlink() or step.is_file():
            step.unlink()
            return
        # Unsealed first, so that an interrupted removal leaves nothing that looks whole.
        sealing.unseal(step)
        shutil.rmtree(step, ignore_errors=True)

    def wait(self) -> None:
        """Returns when nothing is being saved any more. Raises as `save` does."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None
        failure, self._failure = self._failure, None
        if failure is not None:
            reason = getattr(failure, "strerror", None) or str(failure).split("\n")[0]
            raise InputError(f"{self.directory}: cannot save a checkpoint: {reason}") from failure

    def verify(self, round_number: int) -> None:
        """Returns if the checkpoint is whole to the bit.

        Raises:
          Damaged: it is not; the message says what differs.
        """
        if round_number in self._verified:
            return
        manifest = sealing.verify(self.path(round_number))
        if manifest["round"] != round_number:
            raise Damaged(f"{self.path(round_number)}: holds round {manifest['round']}")
        self._verified.add(round_number)

    def newest(self, note: Callable[[str], None] = lambda line: None) -> int | None:
        """The newest round whose checkpoint is whole, or None; `note` hears of damaged ones."""
        for round_number in reversed(self.rounds()):
            try:
                self.verify(round_number)
                return round_number
            except Damaged as error:
                note(f"{error}; looking for an older checkpoint")
        return None

    def read_meta(self, round_number: int) -> dict[str, Any]:
        """What was saved beside the tree: the `meta` and "score" of `save`, and "leaves":
        {name: [shape, dtype]}."""
        return json.loads((self.path(round_number) / META).read_text(encoding="utf-8"))

    def load(self, round_number: int, like: PyTree) -> PyTree:
        """The saved leaves that the tree `like` names; other leaves are not read.

        Args:
          like: arrays or shape structs in the structure wanted, any part of what was saved;
            their shardings, where they have one, decide where the leaves are put. For
            `RowsLater` the result holds NumPy rows, or `SavedRows` of a leaf in blocks.

        Raises:
          Damaged: the checkpoint is not whole.
          InputError: a leaf is missing or has another shape or dtype.
        """
        self.verify(round_number)
        wanted = named_leaves(like)
        plain = _plain(wanted)
        meta = self.read_meta(round_number)
        saved = meta["leaves"]
        for name, expected in _kinds(plain).items():
            if saved.get(name) != expected:
                raise InputError(
                    f"{self.path(round_number)}: leaf {name} is {saved.get(name, 'missing')}, "
                    f"expected {expected}"
                )
        loaded = self._read(round_number, plain, meta)
        leaves = [
            jax.random.wrap_key_data(loaded[name], impl=PRNG) if is_key(leaf) else loaded[name]
            for name, leaf in wanted.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _read(
        self, round_number: int, wanted: Mapping[str, Any], meta: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The leaves `wanted`, put where they are wanted; no other large one is read."""
        saved, layout = meta["leaves"], _layout(meta)
        load = functools.partial(self._load_stored, round_number, layout.names)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        place = {n: getattr(leaf, "sharding", None) or here for n, leaf in wanted.items()}
        source = {name: meta["same_as"].get(name, name) for name in wanted}

        def like_block(name: str, block: Block) -> jax.ShapeDtypeStruct:
            shape = (block.stop - block.start, *saved[name][0][1:])
            return jax.ShapeDtypeStruct(shape, saved[name][1], sharding=here)

        asked, joined = {}, []
        for name, like in wanted.items():
            origin = source[name]
            if layout.is_cut(origin):
                if not isinstance(like, RowsLater):
                    joined.append(origin)
                    asked.update({b.name: like_block(origin, b) for b in layout.blocks[origin]})
            elif origin not in layout.offset:
                asked[origin] = jax.ShapeDtypeStruct(*saved[name], sharding=place[name])
        if layout.offset.keys() & set(source.values()):
            asked[PACKED] = jax.ShapeDtypeStruct((layout.packed,), np.uint8, sharding=here)
        loaded: dict[str, Any] = load(asked)
        for origin in dict.fromkeys(joined):
            whole = np.empty(saved[origin][0], jnp.dtype(saved[origin][1]))
            for block in layout.blocks[origin]:
                whole[block.start : block.stop] = loaded.pop(block.name)
            loaded[origin] = whole

        def rows_of(name: str) -> SavedRows:
            def read(block: Block) -> np.ndarray:
                return np.asarray(load({block.name: like_block(name, block)})[block.name])

            return SavedRows(saved[name], layout.blocks[name], read)

        # Each gets memory of its own: JAX may take it over as it is, and write to it once the
        # leaf is donated.
        leaves: dict[str, Any] = {}
        given: set[str] = set()
        for name, like in wanted.items():
            origin, later = source[name], isinstance(like, RowsLater)
            leaf: Any
            if origin in layout.offset:
                (shape, dtype), start = saved[name], layout.offset[origin]
                content = np.asarray(loaded[PACKED])[start : start + _num_bytes(saved[name])]
                leaf = content.view(jnp.dtype(dtype)).reshape(shape).copy()
            elif layout.is_cut(origin) and later:
                leaf = rows_of(origin)
            else:
                leaf = loaded[origin].copy() if origin in given else loaded[origin]
                given.add(origin)
            if later:
                leaves[name] = leaf if isinstance(leaf, SavedRows) else np.asarray(leaf)
            else:
                leaves[name] = jax.device_put(leaf, place[name])
        return leaves

    def _load_stored(
        self, round_number: int, names: Sequence[str], asked: Mapping[str, jax.ShapeDtypeStruct]
    ) -> dict[str, jax.Array]:
        """Orbax's part of a load: what is `asked` of all the `names` that were stored."""
        if not asked:
            return {}
        abstract = {**dict.fromkeys(names, ocp.PLACEHOLDER), **asked}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ocp.load(self.path(round_number) / STATE, abstract)

    def load_leaves(self, round_number: int, below: str = "") -> dict[str, np.ndarray]:
        """The leaves below a place in the saved tree, as host arrays; others are not read.

        Args:
          below: such as "best.server.shared"; empty: all of them. A leaf's own name gives
            that leaf, named "".

        Returns:
          {name after `below`: array}, such as {"items": [I, d], ...}; keys as their numbers.

        Raises:
          Damaged: the checkpoint is not whole.
          InputError: it has nothing of that name.
        """
        self.verify(round_number)
        meta = self.read_meta(round_number)
        saved = meta["leaves"]
        names = [n for n in saved if not below or n == below or n.startswith(f"{below}.")]
        if not names:
            raise InputError(f"{self.path(round_number)}: holds no leaf {below!r}")
        wanted = {n: jax.ShapeDtypeStruct(saved[n][0], saved[n][1]) for n in names}
        loaded = self._read(round_number, wanted, meta)
        return {n[len(below) :].lstrip("."): np.asarray(loaded[n]) for n in names}

    def load_shared(self, round_number: int, of: str = "best") -> dict[str, np.ndarray]:
        """What the server shares, by name, of the state `of`: "best" or "state"."""
        return self.load_leaves(round_number, f"{of}.server.shared")

    def load_clients(
        self, round_number: int, clients: Sequence[int], of: str = "best"
    ) -> dict[str, np.ndarray]:
        """The private rows of some clients, in the order asked.

        Of a leaf in blocks, those are read that hold a row asked for.

        Args:
          clients: user indices. of: "best" or "state".

        Returns:
          {name: array [len(clients), ...]}.

        Raises:
          Damaged: the checkpoint is not whole.
          InputError: it has no row of such a client.
        """
        known = self.load_leaves(round_number, f"{of}.clients")[""]
        unknown = np.setdiff1d(clients, known)
        if len(unknown):
            raise InputError(
                f"client {unknown[0]}: has no row in {self.path(round_number)}, which holds "
                f"{len(known)}"
            )
        row = np.searchsorted(known, clients)
        below, meta = f"{of}.private.", self.read_meta(round_number)
        wanted = {n: RowsLater(*k) for n, k in meta["leaves"].items() if n.startswith(below)}
        rows = self._read(round_number, wanted, meta)
        return {name.removeprefix(below): rows[name][row] for name in wanted}
