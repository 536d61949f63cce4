"""A run directory. Readers never see a half-written file.

A whole file is written under another name and then renamed. `metrics.jsonl` grows by one whole line
per write. All files are strict JSON: a number that is not finite is refused before anything is
written.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import lock_descriptor

from fedvlr_jax.config import with_current_names
from fedvlr_jax.errors import InputError

LOCK = ".lock"
CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
USERS, REPORT = "users.npz", "report.html"
# The statement of a run with --privacy, and its spent rounds.
PRIVACY, LEDGER = "privacy.json", "ledger.json"
# In users.npz: the index of each user's first target, and the arrays with one row per target.
TARGETS, PER_TARGET = "target_indptr", ("ahead", "tied")
# In the order of removal when a run is overwritten: first the file that marks it as finished.
RUN_FILES = (SUMMARY, REPORT, USERS, METRICS, CONFIG)
# Also removed, if they exist.
PRIVATE_FILES = (PRIVACY, LEDGER)


class RunDirectory:
    """The files of one run. `create` makes one to write, `open` one to read or to continue.

    A failing disk (full, read-only, removed) raises an InputError that names --workdir. The files
    from before the failing write stay whole.
    """

    def __init__(self, path: Path, *, replaces: Callable[[], None] | None = None) -> None:
        """Use `create` or `open`; `replaces` runs once, before the first write."""
        self.path = path
        self._before_first_write = replaces

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, overwrite: bool, keep_private: bool = False
    ) -> RunDirectory:
        """A directory for a new run. Changes nothing on disk before the first write.

        Args:
          path: the directory. Missing folders are created.
          overwrite: whether to replace an existing run. The first write removes the files of
            that run, and nothing else in the directory.
          keep_private: `PRIVATE_FILES` stay, because they are those of the new run.

        Raises:
          InputError: the path is empty, contains a file, cannot be written to, or has a run and
            `overwrite` is False.
        """
        if not os.fspath(path):
            raise InputError("--workdir=: empty; give a directory, e.g. --workdir=runs/demo")
        path = Path(path)
        try:
            _check_writable(path)
            _check_free(path, overwrite)
        except OSError as error:
            raise InputError(f"--workdir={path}: cannot be used: {_reason(error)}") from None

        def replace() -> None:
            path.mkdir(parents=True, exist_ok=True)
            _check_free(path, overwrite)
            for name in (*RUN_FILES, *(() if keep_private else PRIVATE_FILES)):
                (path / name).unlink(missing_ok=True)
                for left_over in path.glob(f".{name}.*.tmp"):
                    left_over.unlink()

        return cls(path, replaces=replace)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """The directory of an existing run.

        Raises:
          InputError: there is no such directory, or it has no config.json.
        """
        path = Path(path)
        if not path.is_dir():
            found = "a file" if path.exists() else "nothing"
            raise InputError(f"--workdir={path}: found {found}; give the directory of a run")
        if not (path / CONFIG).is_file():
            raise InputError(f"--workdir={path}: has no run: {CONFIG} is missing")
        return cls(path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json. Raises ValueError, naming the field, for NaN or infinity."""
        self._write(CONFIG, _dump(CONFIG, config, indent=2))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json. Raises ValueError, naming the field, for NaN or infinity."""
        self._write(SUMMARY, _dump(SUMMARY, summary, indent=2))

    def write_privacy(self, stated: Mapping[str, Any]) -> None:
        """Writes privacy.json. Raises ValueError, naming the field, for NaN or infinity."""
        self._write(PRIVACY, _dump(PRIVACY, stated, indent=2))

    def write_report(self, html: str) -> None:
        """Writes report.html."""
        self._write(REPORT, html.encode())

    def write_users(self, users: Mapping[str, np.ndarray]) -> None:
        """Writes users.npz: arrays [N, ...], one row per user. NaN is allowed here.

        With "target_indptr" int [N + 1], "ahead" and "tied" have one row per target.

        Raises:
          ValueError: an array has Python objects (it would need pickle), or the arrays have
            different lengths.
        """
        arrays = {name: np.asarray(value) for name, value in users.items()}
        for name, value in arrays.items():
            if value.dtype.hasobject:
                raise ValueError(f"{USERS}: {name} holds Python objects; give numbers or str")
        if problem := _uneven(arrays):
            raise ValueError(f"{USERS}: {problem}")
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        self._write(USERS, content.getvalue())

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl: the whole line or nothing.

        Raises:
          ValueError: a value is NaN or infinite; the message names the field.
        """
        line = _dump(METRICS, metrics) + b"\n"
        with _workdir_errors(self.path):
            self._prepare()
            _append_line(self.path / METRICS, line)

    def write_metrics(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Replaces metrics.jsonl, one line per entry. Raises as `append_metrics` does."""
        self._write(METRICS, b"".join(_dump(METRICS, entry) + b"\n" for entry in metrics))

    def read_config(self) -> dict[str, Any]:
        """config.json, with the current names of the flags.

        Raises:
          InputError: the file is missing, damaged, or of another kind.
        """
        config = _read_object(self.path / CONFIG)
        if not isinstance(config.get("flags"), dict):
            raise InputError(f"{self.path / CONFIG}: has no flags, so it does not describe a run")
        config["flags"] = with_current_names(config["flags"])
        return config

    def read_summary(self) -> dict[str, Any]:
        """summary.json. Raises InputError for a missing or damaged file."""
        return _read_object(self.path / SUMMARY, missing="the run has not finished")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl by ascending round.

        A run that continued from a checkpoint may have repeated rounds; the later line of a round
        counts. A last line without a newline is an unfinished write and is left out.

        Raises:
          InputError: the file is missing, or any other line is damaged.
        """
        path = self.path / METRICS
        lines = _read(path, missing="the run has not evaluated yet").split(b"\n")[:-1]
        by_round: dict[int, dict[str, Any]] = {}
        for number, line in enumerate(lines, 1):
            record = _parse_object(line, f"{path}, line {number}")
            if not isinstance(record.get("round"), int):
                found = record.get("round", "nothing")
                raise InputError(f"{path}, line {number}: 'round' is {found}, not a whole number")
            by_round[record["round"]] = record
        return [by_round[r] for r in sorted(by_round)]

    def read_users(self) -> dict[str, np.ndarray]:
        """The arrays of users.npz. Raises InputError for a missing or damaged file."""
        path = self.path / USERS
        content = _read(path, missing="the run has not finished")
        try:
            loaded = np.load(io.BytesIO(content), allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it is one array")
            users = {name: loaded[name] for name in loaded.files}
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: damaged, no archive of NumPy arrays: {error}") from None
        if problem := _uneven(users):
            raise InputError(f"{path}: damaged: {problem}")
        return users

    def has_results(self) -> bool:
        """Whether the run has finished: summary.json exists, whole or damaged."""
        return (self.path / SUMMARY).is_file()

    def has_report(self) -> bool:
        return (self.path / REPORT).is_file()

    def remove_results(self) -> None:
        """Removes the results of a finished run before it continues, summary.json first."""
        with _workdir_errors(self.path):
            for name in (SUMMARY, REPORT, USERS):
                (self.path / name).unlink(missing_ok=True)

    def _prepare(self) -> None:
        if self._before_first_write is not None:
            self._before_first_write()
            self._before_first_write = None

    def _write(self, name: str, content: bytes) -> None:
        with _workdir_errors(self.path):
            self._prepare()
            replace_file(self.path / name, content)


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
    with _workdir_errors(path):
        _check_writable(path)
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        file = _opened(path / LOCK)
    with file:
        with _workdir_errors(path):
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
def _workdir_errors(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block into one line about --workdir."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--workdir={path}: cannot be written: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _check_writable(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"--workdir={path}: is a file; give a directory")
    nearest = path.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise InputError(f"--workdir={path}: {nearest} is a file; give another directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"--workdir={path}: {nearest} is not writable; give another directory")


def _check_free(path: Path, overwrite: bool) -> None:
    held = [name for name in RUN_FILES if os.path.lexists(path / name)]
    if held and not overwrite:
        raise InputError(
            f"--workdir={path}: already holds a run ({', '.join(sorted(held))}); "
            "give another directory, or add --overwrite to replace it"
        )
    for name in held:
        if (path / name).is_dir() and not (path / name).is_symlink():
            raise InputError(f"--workdir={path}: {name} is a directory; give another directory")


def replace_file(path: Path, content: bytes) -> None:
    """`replacing`, with all of the content."""
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file with a temporary name. It gets its name after it is whole and on the disk."""
    # Not tempfile: its files are private to the user (mode 0600), but results are not.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _append_line(path: Path, line: bytes) -> None:
    with _opened(path) as file:
        end = _end_of_whole_lines(file)
        file.truncate(end)
        file.seek(end)
        try:
            if file.write(line) != len(line):
                raise OSError("the disk took only a part of a line")
        except BaseException:
            file.truncate(end)
            raise


def _opened(path: Path) -> io.FileIO:
    """The file, made if missing, to be read and written without a buffer."""
    binary = getattr(os, "O_BINARY", 0)  # Windows alone tells text from bytes.
    return open(os.open(path, os.O_RDWR | os.O_CREAT | binary, 0o666), "r+b", buffering=0)


def _end_of_whole_lines(file: io.FileIO) -> int:
    """The position of the next line; before the file's end if its last line is incomplete."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return end
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return end
    file.seek(0)
    return file.read(end).rfind(b"\n") + 1


def _dump(name: str, value: Mapping[str, Any], indent: int | None = None) -> bytes:
    text = json.dumps(_plain(value, name), allow_nan=False, indent=indent, ensure_ascii=False)
    return text.encode()


def _plain(value: Any, where: str) -> Any:
    """The same value in Python's own types. Raises ValueError if it is not finite."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; JSON has no such number")
    return value


def _read(path: Path, missing: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {missing}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from None


def _read_object(path: Path, missing: str = "this is not the directory of a run") -> dict[str, Any]:
    return _parse_object(_read(path, missing), str(path))


def _parse_object(content: bytes, where: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise InputError(f"{where}: damaged: holds {constant}, which is no JSON number")

    try:
        value = json.loads(content, parse_constant=refuse)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        found = "an empty text" if not content.strip() else f"{error.msg} at {place}"
        raise InputError(f"{where}: damaged, not JSON: {found}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: damaged, not UTF-8 at byte {error.start}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: damaged: holds a {type(value).__name__}, not an object")
    return value


def _uneven(arrays: Mapping[str, np.ndarray]) -> str:
    """The fault of the arrays' first axes; "" for none."""
    for name, value in arrays.items():
        if value.ndim == 0:
            return f"{name} has no axis of users"
    lengths = {name: len(value) for name, value in arrays.items()}
    if TARGETS in arrays:
        lengths[TARGETS] -= 1
        size = int(arrays[TARGETS][-1]) if len(arrays[TARGETS]) else 0
        for name in PER_TARGET:
            if (found := lengths.pop(name, size)) != size:
                return f"{name} has {found} rows, {TARGETS} counts {size} targets"
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        return f"the arrays differ in their number of users: {listed}"
    return ""
