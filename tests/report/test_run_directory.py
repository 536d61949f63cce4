"""No half-written file, no foreign file touched, and every refusal is one clear line."""

import io
import json
import os
import threading

import numpy as np
import pytest

from fedvlr_jax.errors import InputError
from fedvlr_jax.report import atomic_files, run_directory, workdir
from fedvlr_jax.report.run_directory import RunDirectory
from fedvlr_jax.report.workdir import LOCK, locked


def refused(pattern: str):
    return pytest.raises(InputError, match=rf"^[^\n]*{pattern}[^\n]*$")


@pytest.fixture
def finished(tmp_path) -> RunDirectory:
    directory = RunDirectory.create(tmp_path / "run", overwrite=False)
    directory.write_config({"flags": {"seed": 0}})
    directory.append_metrics({"round": 5, "loss": 0.5})
    directory.append_metrics({"round": 10, "loss": 0.4})
    directory.write_users({"user_id": np.array(["a", "b"]), "hr@50": np.array([1.0, np.nan])})
    directory.write_summary({"selected_round": 10})
    directory.write_report("<p>é</p>")
    return directory


def test_what_is_written_is_what_is_read(finished):
    opened = RunDirectory.open(finished.path)
    assert opened.read_config() == {"flags": {"seed": 0}}
    assert opened.read_metrics() == [{"round": 5, "loss": 0.5}, {"round": 10, "loss": 0.4}]
    assert opened.read_summary() == {"selected_round": 10}
    users = opened.read_users()
    assert users["user_id"].tolist() == ["a", "b"]
    np.testing.assert_array_equal(users["hr@50"], [1.0, np.nan])
    assert (finished.path / "report.html").read_text(encoding="utf-8") == "<p>é</p>"
    assert sorted(os.listdir(finished.path)) == sorted(run_directory.RUN_FILES)


def test_numpy_values_become_plain_json(tmp_path):
    directory = RunDirectory.create(tmp_path, overwrite=False)
    directory.write_summary({"a": np.float32(0.5), "b": np.arange(2), "c": (np.int64(3), None)})
    assert directory.read_summary() == {"a": 0.5, "b": [0, 1], "c": [3, None]}


def test_create_touches_nothing_before_the_first_write(tmp_path, finished):
    new = RunDirectory.create(tmp_path / "deep" / "er", overwrite=False)
    assert not (tmp_path / "deep").exists()
    old = RunDirectory.create(finished.path, overwrite=True)
    assert RunDirectory.open(finished.path).read_summary() == {"selected_round": 10}
    new.write_config({})
    old.write_config({})
    assert os.listdir(tmp_path / "deep" / "er") == os.listdir(finished.path) == ["config.json"]


def test_overwrite_removes_only_the_runs_own_files(finished):
    (finished.path / "notes.txt").write_text("mine")
    (finished.path / "checkpoints").mkdir()
    (finished.path / ".summary.json.12.tmp").write_text("left by a killed run")
    RunDirectory.create(finished.path, overwrite=True).append_metrics({"round": 1})
    assert sorted(os.listdir(finished.path)) == ["checkpoints", "metrics.jsonl", "notes.txt"]
    assert finished.read_metrics() == [{"round": 1}]


def test_a_directory_without_a_run_is_taken_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    RunDirectory.create(tmp_path, overwrite=False).write_config({})
    assert sorted(os.listdir(tmp_path)) == ["config.json", "notes.txt"]


def test_refuses_a_directory_that_holds_a_run(finished):
    with refused(r"workdir=.*run: already holds a run \(config.json, .*overwrite"):
        RunDirectory.create(finished.path, overwrite=False)


def test_refuses_a_run_that_appeared_since(tmp_path):
    first = RunDirectory.create(tmp_path / "run", overwrite=False)
    second = RunDirectory.create(tmp_path / "run", overwrite=False)
    first.write_config({"flags": {"mine": 1}})
    with refused("already holds a run"):
        second.write_config({"mine": 2})
    assert first.read_config() == {"flags": {"mine": 1}}


def test_refuses_what_cannot_be_a_directory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with refused("workdir=.*file: is a file"):
        RunDirectory.create(tmp_path / "file", overwrite=True)
    with refused("workdir=.*file/a/b: .*file is a file"):
        RunDirectory.create(tmp_path / "file" / "a" / "b", overwrite=False)
    with refused("workdir=: empty"):
        RunDirectory.create("", overwrite=False)
    with refused("cannot be used: File name too long"):
        RunDirectory.create(tmp_path / ("x" * 300), overwrite=False)
    (tmp_path / "taken" / "config.json").mkdir(parents=True)
    with refused("config.json is a directory"):
        RunDirectory.create(tmp_path / "taken", overwrite=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with refused("workdir=.*new: .* is not writable"):
        RunDirectory.create(tmp_path / "new", overwrite=False)


@pytest.mark.parametrize("write", ["write_config", "write_summary", "append_metrics"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("-inf")])
def test_never_writes_a_number_that_json_lacks(tmp_path, write, value):
    directory = RunDirectory.create(tmp_path / "run", overwrite=False)
    with pytest.raises(ValueError, match=r"valid: hr@50\[1\] is (nan|inf|-inf)"):
        getattr(directory, write)({"round": 1, "valid": {"hr@50": [0.0, value]}})
    assert not (tmp_path / "run").exists()


def test_a_failing_write_leaves_the_old_file_whole(finished, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with refused("workdir=.*run: cannot be written: No space left on device"):
        finished.write_summary({"selected_round": 99})
    assert finished.read_summary() == {"selected_round": 10}
    assert sorted(os.listdir(finished.path)) == sorted(run_directory.RUN_FILES)


def test_a_line_that_the_disk_takes_half_of_is_taken_back(finished, monkeypatch):
    class HalfFull(io.FileIO):
        def write(self, line):
            return super().write(line[:7])

    monkeypatch.setattr(atomic_files, "opened", lambda path: HalfFull(path, "r+"))
    with refused("only a part of a line"):
        finished.append_metrics({"round": 15, "loss": 0.3})
    assert (finished.path / "metrics.jsonl").read_text().count("\n") == 2
    monkeypatch.undo()
    finished.append_metrics({"round": 15, "loss": 0.3})
    assert [line["round"] for line in finished.read_metrics()] == [5, 10, 15]


def test_readers_never_see_a_half_written_file(finished):
    done = threading.Event()

    def write():
        for number in range(60):
            finished.write_summary({"n": number, "long": "x" * 50_000})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert finished.read_summary().keys() <= {"selected_round", "n", "long"}
    writer.join()
    assert finished.read_summary()["n"] == 59


def test_files_have_the_users_own_permissions(finished):
    (finished.path / "other").write_text("")
    expected = os.stat(finished.path / "other").st_mode
    assert {os.stat(finished.path / name).st_mode for name in run_directory.RUN_FILES} == {expected}


def test_a_torn_last_line_is_left_out_and_written_over(finished):
    with open(finished.path / "metrics.jsonl", "a") as file:
        file.write('{"round": 15, "lo')
    assert [line["round"] for line in finished.read_metrics()] == [5, 10]
    finished.append_metrics({"round": 15})
    lines = (finished.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [5, 10, 15]


def test_the_later_line_of_a_repeated_round_counts(finished):
    finished.append_metrics({"round": 5, "loss": 0.6})
    assert finished.read_metrics() == [{"round": 5, "loss": 0.6}, {"round": 10, "loss": 0.4}]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"round": 15, "lo', "not JSON: Unterminated string"),
        ("", "not JSON: an empty text"),
        ('{"round": 15, "loss": NaN}', "holds NaN"),
        ("[1]", "holds a list, not an object"),
        ('{"loss": 1}', "'round' is nothing, not a whole number"),
    ],
)
def test_a_damaged_line_inside_is_refused_with_its_number(finished, line, found):
    with open(finished.path / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    with refused(f"metrics.jsonl, line 3: .*{found}"):
        finished.read_metrics()


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("config.json", b'{"a": ', "not JSON: Expecting value at line 1, column 7"),
        ("config.json", b"\xff\xfe\xfa", "not (UTF-8|JSON)"),
        ("summary.json", b"", "not JSON: an empty text"),
        ("summary.json", b"[]", "holds a list"),
        ("summary.json", b'{"hr@50": NaN}', "holds NaN"),
        ("users.npz", b"PK not really", "no archive of NumPy arrays"),
        ("users.npz", b"", "no archive of NumPy arrays"),
    ],
)
def test_a_damaged_file_is_named(finished, name, content, found):
    (finished.path / name).write_bytes(content)
    with refused(f"{name}: damaged.*{found}"):
        getattr(finished, "read_" + name.split(".")[0])()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json", "users.npz"])
def test_a_missing_file_is_named(finished, name):
    (finished.path / name).unlink()
    with refused(f"{name}: not found; "):
        getattr(finished, "read_" + name.split(".")[0])()


def test_open_refuses_what_is_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("workdir=.*file: found a file"):
        RunDirectory.open(tmp_path / "file")
    with refused("workdir=.*nowhere: found nothing"):
        RunDirectory.open(tmp_path / "nowhere")
    with refused("has no run: config.json is missing"):
        RunDirectory.open(tmp_path)


def test_users_are_plain_arrays_of_one_length(finished):
    with pytest.raises(ValueError, match=r"user_id holds Python objects"):
        finished.write_users({"user_id": np.array(["a", None])})
    with pytest.raises(ValueError, match=r"differ in their number of users: a 2, b 3"):
        finished.write_users({"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(ValueError, match=r"a has no axis of users"):
        finished.write_users({"a": np.zeros(())})
    assert finished.read_users()["user_id"].tolist() == ["a", "b"]


def test_ranks_have_one_row_a_target(finished):
    ranks = {"target_indptr": np.array([0, 3, 3]), "ahead": np.arange(3), "tied": np.zeros(3, int)}
    users = {"user_id": np.array(["a", "b"])}
    finished.write_users({**users, **ranks})
    assert finished.read_users()["ahead"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"tied has 2 rows, target_indptr counts 3 targets"):
        finished.write_users({**users, **ranks, "tied": np.zeros(2, int)})
    with pytest.raises(ValueError, match=r"differ in their number of users: .* target_indptr 1"):
        finished.write_users({**users, **ranks, "target_indptr": np.array([0, 3])})


def test_damaged_user_archives_are_refused(finished):
    path = finished.path / "users.npz"
    np.savez(path, a=np.zeros(2), b=np.zeros(3))
    with refused("users.npz: damaged: the arrays differ"):
        finished.read_users()
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with refused("users.npz: damaged, no archive of NumPy arrays: it is one array"):
        finished.read_users()
    np.savez(path, a=np.array([{}], dtype=object), allow_pickle=True)
    with refused("users.npz: damaged, no archive of NumPy arrays"):
        finished.read_users()


def test_a_refusal_leaves_no_folder_that_the_lock_made(tmp_path):
    with refused("wrong"), locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).exists()
        raise InputError("wrong")
    assert not list(tmp_path.iterdir())


def test_a_refusal_leaves_folders_and_files_of_others(tmp_path):
    (tmp_path / "mine").mkdir()
    with refused("wrong"), locked(tmp_path / "mine" / "b"):
        raise InputError("wrong")
    assert not list((tmp_path / "mine").iterdir())
    with refused("wrong"), locked(tmp_path / "mine"):
        raise InputError("wrong")
    assert (tmp_path / "mine").is_dir()
    with refused("wrong"), locked(tmp_path / "c"):
        (tmp_path / "c" / "file").write_text("x")
        raise InputError("wrong")
    assert (tmp_path / "c" / "file").exists()


def test_a_lock_that_was_removed_is_not_held(tmp_path, monkeypatch):
    def replaced(descriptor, *, blocking):
        (tmp_path / "w" / LOCK).unlink()
        (tmp_path / "w" / LOCK).touch()
        return True

    monkeypatch.setattr(workdir, "lock_descriptor", replaced)
    with refused("another process holds it"), locked(tmp_path / "w"):
        pass
