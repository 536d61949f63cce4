"""A run directory. Readers never see a half-written file.

`metrics.jsonl` grows by one whole line per write. All files are strict JSON: a number that is not
finite is refused before anything is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedvlr_jax.config import with_current_names
from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.report.atomic_files import append_line, replace_file
from fedvlr_jax.report.strict_json import dump, parse_object
from fedvlr_jax.report.users_archive import dump_users, parse_users
from fedvlr_jax.report.workdir import check_writable, workdir_errors

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
USERS, REPORT = "users.npz", "report.html"
# The statement of a run with --privacy, and its spent rounds.
PRIVACY, LEDGER = "privacy.json", "ledger.json"
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
            check_writable(path)
            _check_free(path, overwrite)
        except OSError as error:
            raise InputError(f"--workdir={path}: cannot be used: {reason(error)}") from None

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
        self._write(CONFIG, dump(CONFIG, config, indent=2))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json. Raises ValueError, naming the field, for NaN or infinity."""
        self._write(SUMMARY, dump(SUMMARY, summary, indent=2))

    def write_privacy(self, stated: Mapping[str, Any]) -> None:
        """Writes privacy.json. Raises ValueError, naming the field, for NaN or infinity."""
        self._write(PRIVACY, dump(PRIVACY, stated, indent=2))

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
        self._write(USERS, dump_users(USERS, users))

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl: the whole line or nothing.

        Raises:
          ValueError: a value is NaN or infinite; the message names the field.
        """
        line = dump(METRICS, metrics) + b"\n"
        with workdir_errors(self.path):
            self._prepare()
            append_line(self.path / METRICS, line)

    def write_metrics(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Replaces metrics.jsonl, one line per entry. Raises as `append_metrics` does."""
        self._write(METRICS, b"".join(dump(METRICS, entry) + b"\n" for entry in metrics))

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
            record = parse_object(line, f"{path}, line {number}")
            if not isinstance(record.get("round"), int):
                found = record.get("round", "nothing")
                raise InputError(f"{path}, line {number}: 'round' is {found}, not a whole number")
            by_round[record["round"]] = record
        return [by_round[r] for r in sorted(by_round)]

    def read_users(self) -> dict[str, np.ndarray]:
        """The arrays of users.npz. Raises InputError for a missing or damaged file."""
        path = self.path / USERS
        return parse_users(_read(path, missing="the run has not finished"), str(path))

    def has_results(self) -> bool:
        """Whether the run has finished: summary.json exists, whole or damaged."""
        return (self.path / SUMMARY).is_file()

    def has_report(self) -> bool:
        return (self.path / REPORT).is_file()

    def remove_results(self) -> None:
        """Removes the results of a finished run before it continues, summary.json first."""
        with workdir_errors(self.path):
            for name in (SUMMARY, REPORT, USERS):
                (self.path / name).unlink(missing_ok=True)

    def _prepare(self) -> None:
        if self._before_first_write is not None:
            self._before_first_write()
            self._before_first_write = None

    def _write(self, name: str, content: bytes) -> None:
        with workdir_errors(self.path):
            self._prepare()
            replace_file(self.path / name, content)


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


def _read(path: Path, missing: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {missing}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None


def _read_object(path: Path, missing: str = "this is not the directory of a run") -> dict[str, Any]:
    return parse_object(_read(path, missing), str(path))
