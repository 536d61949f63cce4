"""The folder of --workdir: its lock, and the errors of its disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import lock_descriptor

from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.report.atomic_files import opened

LOCK = ".lock"


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Locks a run directory against all other processes; creates it if it is missing.

    The kernel frees the lock of a process that ends, however it ends: a killed run never
    stands in the way of the next. If the block raises InputError, the folders that were made here
    are removed, unless the block has put a file into them.

    Raises:
      InputError: another process holds it, or it cannot be written to.
    """
    path = Path(path)
    with workdir_errors(path):
        check_writable(path)
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        file = opened(path / LOCK)
    with file:
        with workdir_errors(path):
            # Windows keeps the locked byte, the first one, from being read by others.
            file.seek(1)
            if not lock_descriptor(file.fileno(), blocking=False):
                holder = file.read(32).decode(errors="replace").strip()
                raise InputError(
                    f"--workdir={path}: process {holder} is writing there; wait for it, or give "
                    "another directory"
                )
            # The stat fails, too, if a process that was refused has removed its lock since.
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(path / LOCK)):
                raise InputError(f"--workdir={path}: another process holds it; try again")
            file.truncate()
            file.write(f"{os.getpid()}\n".encode())
        try:
            yield
        except InputError:
            _remove_made(made)
            raise


def _remove_made(made: Sequence[Path]) -> None:
    """Removes folders that hold nothing but a lock, the innermost first."""
    # Windows keeps an open file, and the folder with it.
    with contextlib.suppress(OSError):
        if not made or {file.name for file in made[0].iterdir()} != {LOCK}:
            return
        (made[0] / LOCK).unlink()
        for folder in made:
            folder.rmdir()


@contextlib.contextmanager
def workdir_errors(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block into one line about --workdir."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--workdir={path}: cannot be written: {reason(error)}") from error


def check_writable(path: Path) -> None:
    """Raises InputError unless `path` is, or can become, a directory that can be written to."""
    if path.exists() and not path.is_dir():
        raise InputError(f"--workdir={path}: is a file; give a directory")
    nearest = path.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise InputError(f"--workdir={path}: {nearest} is a file; give another directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"--workdir={path}: {nearest} is not writable; give another directory")
