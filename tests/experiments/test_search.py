"""The search: its space, its trials over several processes and starts, and its pruning."""

import json
import shlex
import types

import pytest

from fedvlr_jax.commands import search as command
from fedvlr_jax.commands.shared import study as studies
from fedvlr_jax.commands.shared.faults import Interrupted
from fedvlr_jax.commands.shared.reproduce import command_of, wrapped
from fedvlr_jax.commands.shared.runs import load
from fedvlr_jax.commands.shared.space import parse_space, parse_spaces
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory

pytest.importorskip("optuna")
SIZES = dict(synthetic_users=40, synthetic_items=60, width=8, rounds=4, eval_every=2)
SPACE = ["client_lr=log:0.1:10", "fusion=none"]


class Signal:
    """In place of StopRequest: asks to stop once `asked` was looked at `calm` times."""

    name = "SIGTERM"

    def __init__(self, calm):
        self._calm = calm

    @property
    def asked(self):
        self._calm -= 1
        return self._calm < 0


class Ends:
    """Suggests the lower end of every range and the last choice."""

    def suggest_categorical(self, name, choices):
        return choices[-1]

    def suggest_float(self, name, low, high, *, log):
        return low if not log else low * 1.234567

    def suggest_int(self, name, low, high, *, log):
        return low


def test_a_space_is_a_range_or_a_list():
    drawn = lambda text: parse_space(text).draw(Ends())
    assert drawn("client_lr=log:0.1:10") == (("client_lr", 0.1235),)
    assert drawn("client_lr=uniform:1:2") == (("client_lr", 1.0),)
    assert drawn("rounds=uniform:5:50") == (("rounds", 5),)
    assert drawn("fusion=none,bilevel") == (("fusion", "bilevel"),)
    assert drawn("fusion:views=none:id,bilevel:table") == (
        ("fusion", "bilevel"),
        ("views", "table"),
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("client_lr", "no flag that can vary"),
        ("client_lr=log:0:1", "LOW > 0"),
        ("client_lr=log:1", "found 1 ends"),
        ("client_lr=log:2:1", "LOW < HIGH"),
        ("client_lr=log:a:1", "takes float values"),
        ("client_lr=uniform:nan:1", "no end of a range"),
        ("fusion=log:1:2", "no end of a range"),
        ("rounds=log:1.5:3", "takes int values"),
        ("magic=1,2", "no flag that can vary"),
        ("fusion=none,none", "there twice"),
        ("fusion=none,magic", "magic"),
        ("router_lr=uniform:-1:1", "router_lr"),
    ],
)
def test_a_bad_space_is_one_line(text, found):
    with pytest.raises(InputError, match=found) as error:
        parse_spaces([text], Config.from_flat(workdir="w"))
    assert str(error.value).startswith(f"--space={text}: ") and "\n" not in str(error.value)


def test_a_space_is_given_once():
    with pytest.raises(InputError, match="fusion is there twice"):
        parse_spaces(["fusion=none,mlp", "fusion=mlp,vbpr"], Config())
    with pytest.raises(InputError, match="nothing to search"):
        parse_spaces([], Config())


def make_base(folder):
    return Config.from_flat(**SIZES, workdir=str(folder), baselines=False)


def make_study(folder, **changes):
    base = make_base(folder)
    options = dict(sampler="tpe", seed=0, trials=5, budget=0) | changes
    settings = {**base.flat, "space": SPACE, "sampler": options["sampler"]}
    return studies.Study(folder, parse_spaces(SPACE, base), settings, "data", **options)


def told_by(study, count, value=1.0):
    """The choices of the next trials, each told `value`."""
    choices = []
    for _ in range(count):
        asked = study.ask()
        choices.append(asked.choice)
        study.tell(asked, studies.FINISHED, 4, value, "")
    return choices


def test_a_search_continues_with_the_draws_of_an_undisturbed_one(tmp_path):
    whole = told_by(make_study(tmp_path / "whole"), 5)
    assert len(set(whole)) == 5
    parts = told_by(make_study(tmp_path / "w"), 2)
    parts += told_by(make_study(tmp_path / "w"), 3)
    assert parts == whole
    assert make_study(tmp_path / "w").ask() is None
    assert [trial.folder for trial in make_study(tmp_path / "w").told()][-1] == "trial0004"


def test_processes_share_trials_and_take_over_abandoned_ones(tmp_path):
    one, other = make_study(tmp_path), make_study(tmp_path)
    first, second = one.ask(), other.ask()
    assert (first.folder.name, second.folder.name) == ("trial0000", "trial0001")
    one.leave(first)
    again = other.ask()
    assert again.folder == first.folder and again.choice == first.choice
    assert one.ask().folder.name == "trial0002"
    other.tell(again, studies.FINISHED, 4, 2.0, "")
    assert [trial.folder for trial in one.told()] == ["trial0000"]


def test_the_budget_counts_rounds_and_trials_under_way(tmp_path):
    study = make_study(tmp_path, budget=8)
    told_by(study, 1)
    under_way = study.ask()
    assert under_way is not None and study.ask() is None


def test_a_folder_of_another_search_is_refused(tmp_path):
    make_study(tmp_path)
    with pytest.raises(InputError, match="--sampler was 'tpe', is 'random'"):
        make_study(tmp_path, sampler="random")
    (tmp_path / studies.JOURNAL).write_text("not a journal\n")
    with pytest.raises(InputError, match=r"search\.journal: damaged"):
        make_study(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        make_study(tmp_path / "file")


def test_optuna_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(InputError, match="pip install optuna"):
        studies.optuna()


def flags(monkeypatch):
    values = {"sampler": "tpe", "space": SPACE, "search_seed": 0, "keep_best_model": True}
    monkeypatch.setattr(command, "FLAGS", types.SimpleNamespace(**values))


def test_a_search_trains_prunes_and_names_the_best(monkeypatch, tmp_path):
    """The second of three trials is pruned; a signal stops the third, which then continues."""
    flags(monkeypatch)
    folder = tmp_path / "w"
    base, dataset = make_base(folder), load(make_base(folder))
    calls = []

    class Prunes:
        def __init__(self, *_, **__):
            pass

        def prune(self, study, trial):
            calls.append(trial.number)
            return trial.number == 1

    optuna = studies.optuna()
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: _Pruner(optuna, Prunes()))
    with pytest.raises(Interrupted):
        command.search(make_study(folder, trials=3), base, dataset, Signal(4))
    assert (folder / "trial0002/checkpoints").is_dir()
    study = make_study(folder, trials=3)
    command.search(study, base, dataset, Signal(10**9))
    command.write_search(study.told(), base, folder)
    told = study.told()
    assert [trial.state for trial in told] == ["finished", "pruned", "finished"]
    assert [trial.rounds for trial in told] == [4, 0, 4]
    assert not (folder / "trial0001/summary.json").exists()
    kept = [path.parent.name for path in folder.glob("*/checkpoints")]
    assert kept == [command.best_of(told).folder]
    page = (folder / "index.html").read_text()
    assert "trial0001 (not finished)" in page and "trial0002/report.html" in page
    record = json.loads((folder / "search.json").read_text())
    assert record["budget"] == {"trials": 3, "rounds": 8}
    best = max((t for t in told if t.valid is not None), key=lambda t: t.valid)
    assert record["best"]["folder"] == best.folder
    given = dict(word[2:].split("=", 1) for word in shlex.split(record["command"])[2:])
    flat = RunDirectory.open(folder / best.folder).read_config()["flags"]
    assert float(given["client_lr"]) == flat["client_lr"]
    assert given["workdir"] == f"{folder}-best"


def _Pruner(optuna, stub):
    class Pruner(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return stub.prune(study, trial)

    return Pruner()


def test_a_command_is_broken_between_flags():
    config = Config.from_flat(views="id,text", client_lr=0.5, baselines=False, workdir="w")
    command_text = command_of(config, workdir="my runs/best")
    assert command_text.startswith("fedvlr train ") and "'--workdir=my runs/best'" in command_text
    lines = wrapped(command_text, 40)
    assert max(map(len, lines.splitlines())) <= 40
    assert shlex.split(lines.replace("\\\n", "")) == shlex.split(command_text)
