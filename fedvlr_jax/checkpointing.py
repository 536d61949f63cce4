"""Checkpoints that a run can trust: written aside, sealed last, verified before use.

A checkpoint is a directory `round_00000020` holding `state` (orbax), `meta.json`, and
`manifest.json`, written last: the size and SHA-256 of every file, and its own digest.
Orbax notices neither flipped bits nor another dtype, and takes a stray directory for the
latest step; here a directory without a manifest that agrees to the bit is no checkpoint,
and the newest one that is whole is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from fedvlr_jax.errors import InputError
from fedvlr_jax.types import PyTree

SCHEMA = 1
STATE, META, MANIFEST = "state", "meta.json", "manifest.json"
_STEP = re.compile(r"round_(\d{8,})")

logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class DamagedCheckpoint(InputError):
    """A checkpoint that is not what was once written; the message says what differs."""


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """{"server.shared.items": leaf, ...}: the leaves by their place in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def _kinds(leaves: dict[str, Any]) -> dict[str, list]:
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in leaves.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path) -> Iterable[Path]:
    return sorted(p for p in directory.rglob("*") if not p.is_dir() or p.is_symlink())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(step: Path, round_number: int) -> None:
    """Writes the manifest of everything that lies in `step`, as the last act of a save."""
    files = {}
    for path in _files(step):
        _sync(path)
        files[path.relative_to(step).as_posix()] = [path.stat().st_size, _digest(path)]
    body = json.dumps({"schema": SCHEMA, "round": round_number, "files": files})
    digest = hashlib.sha256(body.encode()).hexdigest()
    aside = step / f".{MANIFEST}.tmp"
    aside.write_text(f"{body}\n{digest}\n")
    _sync(aside)
    aside.rename(step / MANIFEST)
    _sync(step)


def verify(step: Path) -> int:
    """The round of the checkpoint in `step`, every byte of which is as it was written.

    Raises:
      DamagedCheckpoint: it is not; the message names the first file that differs.
    """
    if not (step / MANIFEST).is_file():
        raise DamagedCheckpoint(f"{step}: has no {MANIFEST}; the save was not finished")
    try:
        text = (step / MANIFEST).read_text()
        body, digest, rest = text.split("\n")
        if rest or hashlib.sha256(body.encode()).hexdigest() != digest:
            raise ValueError
    except (ValueError, OSError):
        raise DamagedCheckpoint(f"{step / MANIFEST}: differs from what was written") from None
    manifest = json.loads(body)
    if manifest["schema"] != SCHEMA:
        raise DamagedCheckpoint(
            f"{step}: written by schema {manifest['schema']}; this version reads {SCHEMA}"
        )
    if step.name != _step_name(manifest["round"]):
        raise DamagedCheckpoint(f"{step}: holds round {manifest['round']}")
    found = {p.relative_to(step).as_posix(): p for p in _files(step)}
    found.pop(MANIFEST)
    for name in sorted(found.keys() ^ manifest["files"].keys()):
        what = "is missing" if name in manifest["files"] else "does not belong here"
        raise DamagedCheckpoint(f"{step / name}: {what}")
    for name, (size, expected) in manifest["files"].items():
        if found[name].stat().st_size != size or _digest(found[name]) != expected:
            raise DamagedCheckpoint(f"{step / name}: differs from what was written")
    return manifest["round"]


def _step_name(round_number: int) -> str:
    return f"round_{round_number:08d}"


class Checkpoints:
    """The checkpoints of one run, newest last.

    Args:
      directory: where they lie; made at the first save.
      keep: how many of the newest are kept.
    """

    def __init__(self, directory: Path, *, keep: int = 2):
        self.directory = Path(directory).absolute()
        self._keep = keep
        self._saving: threading.Thread | None = None
        self._failure: BaseException | None = None

    def rounds(self) -> list[int]:
        """Rounds that have a directory, ascending; whether they are whole is not looked at."""
        if not self.directory.is_dir():
            return []
        matches = (_STEP.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, round_number: int) -> Path:
        return self.directory / _step_name(round_number)

    def save(self, round_number: int, tree: PyTree, meta: dict[str, Any]) -> None:
        """Saves in the background; `tree` may be donated as soon as this returns.

        Waits for a save that is still under way, and raises if that one failed.

        Raises:
          InputError: the disk cannot take it; older checkpoints are untouched.
        """
        self.wait()
        leaves = named_leaves(tree)
        # The only copy made while training waits. Typed keys travel as their numbers.
        leaves = {
            name: jax.random.key_data(x)
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
            for name, x in leaves.items()
        }
        host = {name: np.array(x) for name, x in jax.device_get(leaves).items()}
        content = json.dumps({**meta, "leaves": _kinds(host)})

        def work() -> None:
            try:
                self._write(round_number, host, content)
            except BaseException as error:
                self._failure = error

        self._saving = threading.Thread(target=work, name="checkpoint")
        self._saving.start()

    def _write(self, round_number: int, leaves: dict[str, np.ndarray], meta: str) -> None:
        step = self.path(round_number)
        if step.exists():
            self._remove(step)
        step.mkdir(parents=True)
        ocp.save(step / STATE, leaves)
        (step / META).write_text(meta)
        _seal(step, round_number)
        _sync(self.directory)
        for old in self.rounds()[: -self._keep]:
            self._remove(self.path(old))

    def clear(self) -> None:
        """Removes every checkpoint."""
        self.wait()
        for round_number in self.rounds():
            self._remove(self.path(round_number))

    @staticmethod
    def _remove(step: Path) -> None:
        # Unsealed first, so that an interrupted removal leaves nothing that looks whole.
        (step / MANIFEST).unlink(missing_ok=True)
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

    def newest(self, note: Callable[[str], None] = lambda line: None) -> int | None:
        """The newest round whose checkpoint is whole, or None; `note` hears of damaged ones."""
        for round_number in reversed(self.rounds()):
            try:
                return verify(self.path(round_number))
            except DamagedCheckpoint as error:
                note(f"{error}; looking for an older checkpoint")
        return None

    def read_meta(self, round_number: int) -> dict[str, Any]:
        """What was saved beside the state: the `meta` of `save`, and "leaves"."""
        return json.loads((self.path(round_number) / META).read_text())

    def load(self, round_number: int, like: PyTree) -> PyTree:
        """The saved leaves that the tree `like` names; other leaves are not read.

        Args:
          like: arrays or shape structs in the structure wanted, any part of what was saved;
            their shardings, where they have one, decide where the leaves are put.

        Raises:
          DamagedCheckpoint: the checkpoint is not whole.
          InputError: a leaf is missing or has another shape or dtype.
        """
        step = self.path(round_number)
        verify(step)
        saved = self.read_meta(round_number)["leaves"]
        wanted = named_leaves(like)
        plain = {}
        for name, leaf in wanted.items():
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.eval_shape(jax.random.key_data, leaf)
            expected = [list(leaf.shape), str(leaf.dtype)]
            if saved.get(name) != expected:
                raise InputError(
                    f"{step}: leaf {name} is {saved.get(name, 'missing')}, expected {expected}"
                )
            sharding = getattr(leaf, "sharding", None)
            sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            plain[name] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        abstract = {name: plain.get(name, ocp.PLACEHOLDER) for name in saved}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = ocp.load(step / STATE, abstract)
        leaves = [
            jax.random.wrap_key_data(loaded[name])
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else loaded[name]
            for name, leaf in wanted.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)
