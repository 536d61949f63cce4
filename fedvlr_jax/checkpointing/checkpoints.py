"""The checkpoints of one run: saved in the background, verified, kept or removed."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedvlr_jax import sealing
from fedvlr_jax.checkpointing.layout import kinds, plain
from fedvlr_jax.checkpointing.reading import Reader, RowsLater
from fedvlr_jax.checkpointing.writing import META, Content, copied, store, write
from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.sealing import Damaged
from fedvlr_jax.settings import PRNG
from fedvlr_jax.trees import is_key, named_leaves
from fedvlr_jax.types import PyTree

_STEP = re.compile(r"round_([0-9]{8,})")


def _step_name(round_number: int) -> str:
    return f"round_{round_number:08d}"


class Checkpoints:
    """The checkpoints of one run, newest last.

    Args:
      directory: their folder; the first save creates it.
      keep: how many of the newest are kept.
      keep_best: how many more are kept for their score, the highest first.

    Attributes:
      ended: `time.perf_counter()` at the end of the last save; None before the first has
        ended, and while one is under way.
    """

    def __init__(self, directory: Path, *, keep: int = 2, keep_best: int = 0) -> None:
        self.directory = Path(directory).absolute()
        self._keep, self._keep_best = keep, keep_best
        self.ended: float | None = None
        self._saving: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._verified: set[int] = set()

    def rounds(self) -> list[int]:
        """Rounds that have a directory, ascending, whether or not it is whole."""
        if not self.directory.is_dir():
            return []
        names = [path.name for path in self.directory.iterdir()]
        rounds = [int(match[1]) for match in map(_STEP.fullmatch, names) if match]
        return sorted(r for r in rounds if _step_name(r) in names)

    def path(self, round_number: int) -> Path:
        """The directory of a round's checkpoint."""
        return self.directory / _step_name(round_number)

    def save(
        self, round_number: int, tree: PyTree, meta: Mapping[str, Any], score: float = 0.0
    ) -> None:
        """Saves in the background; `tree` may be donated as soon as this returns.

        NumPy arrays that own their memory, and maps of files, are handed over and must not be
        changed any more; all other arrays are copied first. A leaf that stands in several places,
        as the same object, is stored once.

        Of several processes all have to call it, with the same tree; the first one writes.

        It first waits for a save that is still under way, and raises if that one failed. Once the
        checkpoint is whole, newer directories (damaged or stray) and those that need not be kept
        are removed.

        Args:
          meta: JSON values to keep beside the tree.
          score: what `keep_best` goes by, the higher the better.

        Raises:
          InputError: the disk cannot take it; older checkpoints are untouched.
        """
        self.wait()
        self.ended = None
        self._verified.clear()
        # The only copy is made while training waits.
        content = copied(tree, {**meta, "score": score})

        def work() -> None:
            try:
                if jax.process_index() == 0:
                    self._write(round_number, content)
                    self._remove_others(round_number)
                else:
                    store(self.path(round_number), content.arrays)
            except BaseException as error:  # noqa: BLE001 (raised in the main thread)
                self._failure = error
            self.ended = time.perf_counter()

        self._saving = threading.Thread(target=work, name="checkpoint")
        self._saving.start()
        if jax.process_count() > 1:
            # Orbax meets the other processes on the devices: not beside the training.
            self.wait()

    def _write(self, round_number: int, content: Content) -> None:
        step = self.path(round_number)
        self._remove(step)
        try:
            write(step, content, round_number)
        except BaseException:
            # On a full disk the torn save would take the place of the next one.
            self._remove(step)
            raise
        sealing.sync(self.directory)

    def _remove_others(self, newest: int) -> None:
        # Only sealed directories count: a stray directory must not displace a save.
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
        """Returns when no save is under way. Raises as `save` does."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None
        failure, self._failure = self._failure, None
        if failure is not None:
            why = reason(failure).split("\n")[0]
            raise InputError(f"{self.directory}: cannot save a checkpoint: {why}") from failure

    def verify(self, round_number: int) -> None:
        """Returns if the checkpoint is whole to the bit.

        Raises:
          Damaged: it is not; the message names the difference.
        """
        if round_number in self._verified:
            return
        manifest = sealing.verify(self.path(round_number))
        if manifest["round"] != round_number:
            raise Damaged(f"{self.path(round_number)}: holds round {manifest['round']}")
        self._verified.add(round_number)

    def newest(self, note: Callable[[str], None] = lambda line: None) -> int | None:
        """The newest round whose checkpoint is whole, or None.

        Args:
          note: called with one line for each damaged checkpoint.
        """
        for round_number in reversed(self.rounds()):
            try:
                self.verify(round_number)
                return round_number
            except Damaged as error:
                note(f"{error}; looking for an older checkpoint")
        return None

    def read_meta(self, round_number: int) -> dict[str, Any]:
        """The values beside the tree: the `meta` and "score" of `save`, and "leaves":
        {name: [shape, dtype]}."""
        return json.loads((self.path(round_number) / META).read_text(encoding="utf-8"))

    def load(self, round_number: int, like: PyTree) -> PyTree:
        """The saved leaves that the tree `like` names; other leaves are not read.

        Args:
          like: arrays or shape structs, any part of the saved tree in its structure; a leaf is
            put where their sharding says. For `RowsLater` the result holds NumPy rows, or
            `SavedRows` of a leaf in blocks.

        Raises:
          Damaged: the checkpoint is not whole.
          InputError: a leaf is missing or has another shape or dtype.
        """
        self.verify(round_number)
        wanted = named_leaves(like)
        numbers = plain(wanted)
        saved = self.read_meta(round_number)["leaves"]
        for name, expected in kinds(numbers).items():
            if saved.get(name) != expected:
                raise InputError(
                    f"{self.path(round_number)}: leaf {name} is {saved.get(name, 'missing')}, "
                    f"expected {expected}"
                )
        loaded = self._reader(round_number).read(numbers)
        leaves = [
            jax.random.wrap_key_data(loaded[name], impl=PRNG) if is_key(leaf) else loaded[name]
            for name, leaf in wanted.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _reader(self, round_number: int) -> Reader:
        return Reader(self.path(round_number), self.read_meta(round_number))

    def load_leaves(self, round_number: int, below: str = "") -> dict[str, np.ndarray]:
        """The leaves below a place in the saved tree, as host arrays; others are not read.

        Args:
          below: such as "best.server.shared"; empty: all of them. A leaf's own name gives
            that leaf, named "".

        Returns:
          {name after `below`: array}, such as {"items": [I, d], ...}; keys as their numbers.

        Raises:
          Damaged: the checkpoint is not whole.
          InputError: it has no leaf of that name.
        """
        self.verify(round_number)
        saved = self.read_meta(round_number)["leaves"]
        names = [n for n in saved if not below or n == below or n.startswith(f"{below}.")]
        if not names:
            raise InputError(f"{self.path(round_number)}: holds no leaf {below!r}")
        wanted = {n: jax.ShapeDtypeStruct(saved[n][0], saved[n][1]) for n in names}
        loaded = self._reader(round_number).read(wanted)
        return {n[len(below) :].lstrip("."): np.asarray(loaded[n]) for n in names}

    def load_shared(self, round_number: int, of: str = "best") -> dict[str, np.ndarray]:
        """The server's shared leaves by name, of the state `of`: "best" or "state"."""
        return self.load_leaves(round_number, f"{of}.server.shared")

    def load_clients(
        self, round_number: int, clients: Sequence[int], of: str = "best"
    ) -> dict[str, np.ndarray]:
        """The private rows of some clients, in the order of `clients`.

        Only the leaves that the checkpoint holds whole: those that a load draws or makes again are
        left out. Of a leaf in blocks, only those blocks are read that hold such a row.

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
        below, saved = f"{of}.private.", self.read_meta(round_number)["leaves"]
        wanted = {n: RowsLater(*kind) for n, kind in saved.items() if n.startswith(below)}
        rows = self._reader(round_number).read(wanted)
        return {name.removeprefix(below): rows[name][row] for name in wanted}
