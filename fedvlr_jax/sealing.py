"""Sealed directories: a manifest, written last, detects every missing or changed byte.

The manifest has the size and the SHA-256 of every file, and a digest of itself. A directory is
damaged or incomplete if it has no manifest, or if any file differs from the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fedvlr_jax.errors import InputError, reason

SCHEMA = 4
# Schemas that this version reads. Schema 3 equals schema 4 without blocks.
READABLE = (3, SCHEMA)
MANIFEST = "manifest.json"


class Damaged(InputError):
    """A directory differs from its sealed state; the message names the difference."""


def seal(directory: Path, **facts: Any) -> None:
    """Writes the manifest of all files in `directory`, as the last step of a save.

    When the function returns, the files and the manifest are on the disk (fsync).

    Args:
      facts: JSON values that the manifest stores and `verify` returns.
    """
    paths = _files(directory)
    _sync_all(paths)
    files = {
        path.relative_to(directory).as_posix(): [path.stat().st_size, file_sha256(path)]
        for path in paths
    }
    body = json.dumps({"schema": SCHEMA, **facts, "files": files})
    temporary = directory / f".{MANIFEST}.tmp"
    digest = hashlib.sha256(body.encode()).hexdigest()
    temporary.write_text(f"{body}\n{digest}\n", encoding="utf-8")
    sync(temporary)
    temporary.rename(directory / MANIFEST)
    _sync_all([*(p for p in directory.rglob("*") if p.is_dir()), directory])


def is_sealed(directory: Path) -> bool:
    """Whether the directory has a manifest. `verify` checks the manifest against the files."""
    return (directory / MANIFEST).is_file()


def unseal(directory: Path) -> None:
    """Removes the manifest, so that `verify` refuses the directory from now on."""
    (directory / MANIFEST).unlink(missing_ok=True)


def verify(directory: Path) -> dict[str, Any]:
    """Checks every byte of a sealed directory and returns its manifest.

    Raises:
      Damaged: the directory differs from the manifest, or has none; the message names the first
        file that differs.
    """
    try:
        return _verify(directory)
    except OSError as error:
        raise Damaged(f"{error.filename or directory}: cannot be read: {reason(error)}") from None


def _verify(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise Damaged(f"{directory}: is not a directory")
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
        fault = "is missing" if name in manifest["files"] else "does not belong here"
        raise Damaged(f"{directory / name}: {fault}")
    for name, (size, expected) in manifest["files"].items():
        if found[name].stat().st_size != size or file_sha256(found[name]) != expected:
            raise Damaged(f"{directory / name}: differs from what was written")
    return manifest


def sync(path: Path) -> None:
    """Writes a file, or the entries of a directory, through to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(paths: Sequence[Path]) -> None:
    # The file system commits concurrent fsync calls together; sequential calls wait one by one.
    with ThreadPoolExecutor(8, "sync") as pool:
        list(pool.map(sync, paths))


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if not p.is_dir() or p.is_symlink())


def file_sha256(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
