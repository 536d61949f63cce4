"""Directories whose every byte is vouched for by a manifest that is written last.

The manifest holds the size and the SHA-256 of every file, and its own digest. A directory
without one, or with one that does not agree to the bit, is not what was once written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fedvlr_jax.errors import InputError

SCHEMA = 4
# What it can read: 3 is the same without blocks.
READABLE = (3, SCHEMA)
MANIFEST = "manifest.json"


class Damaged(InputError):
    """A directory that is not what was once sealed; the message says what differs."""


def seal(directory: Path, **facts: Any) -> None:
    """Writes the manifest of everything that lies in `directory`, as the last act of a save.

    When this returns, all of it has reached the disk.

    Args:
      facts: JSON values that the manifest keeps and `verify` returns.
    """
    paths = _files(directory)
    _sync_all(paths)
    files = {
        path.relative_to(directory).as_posix(): [path.stat().st_size, file_sha256(path)]
        for path in paths
    }
    body = json.dumps({"schema": SCHEMA, **facts, "files": files})
    aside = directory / f".{MANIFEST}.tmp"
    aside.write_text(f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n", encoding="utf-8")
    sync(aside)
    aside.rename(directory / MANIFEST)
    _sync_all([*(p for p in directory.rglob("*") if p.is_dir()), directory])


def is_sealed(directory: Path) -> bool:
    """Whether the directory has a manifest; whether it agrees is `verify`'s to say."""
    return (directory / MANIFEST).is_file()


def unseal(directory: Path) -> None:
    """Takes the manifest away: from now on the directory counts for nothing."""
    (directory / MANIFEST).unlink(missing_ok=True)


def verify(directory: Path) -> dict[str, Any]:
    """The manifest of a directory, every byte of which is as it was sealed.

    Raises:
      Damaged: it is not; the message names the first file that differs.
    """
    try:
        return _verify(directory)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Damaged(f"{error.filename or directory}: cannot be read: {reason}") from None


def _verify(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise Damaged(f"{directory}: is no directory")
    if not is_sealed(directory):
        raise Damaged(f"{directory}: has no {MANIFEST}; the save was not finished")
    try:
        body, digest, rest = (directory / MANIFEST).read_text(encoding="utf-8").split("\n")
        if rest or hashlib.sha256(body.encode()).hexdigest() != digest:
            raise ValueError
    except ValueError:
        raise Damaged(f"{directory / MANIFEST}: differs from what was written") from None
    manifest = json.loads(body)
    if manifest["schema"] not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise Damaged(
            f"{directory}: written by schema {manifest['schema']}; this version reads {known}"
        )
    found = {path.relative_to(directory).as_posix(): path for path in _files(directory)}
    found.pop(MANIFEST)
    for name in sorted(found.keys() ^ manifest["files"].keys()):
        what = "is missing" if name in manifest["files"] else "does not belong here"
        raise Damaged(f"{directory / name}: {what}")
    for name, (size, expected) in manifest["files"].items():
        if found[name].stat().st_size != size or file_sha256(found[name]) != expected:
            raise Damaged(f"{directory / name}: differs from what was written")
    return manifest


def sync(path: Path) -> None:
    """Returns when the file, or the directory's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(paths: Sequence[Path]) -> None:
    # A journal commits what is asked together at once; one after the other, each waits its turn.
    with ThreadPoolExecutor(8, "sync") as pool:
        list(pool.map(sync, paths))


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if not p.is_dir() or p.is_symlink())


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of the file as it lies on disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
