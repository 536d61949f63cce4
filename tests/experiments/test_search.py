"""The search: its space, its trials over several processes and starts, and its pruning."""

import json
import shlex
import types

import pytest

from fedvlr_jax.commands import search as command
from fedvlr_jax.commands.launching.faults import Interrupted
from fedvlr_jax.commands.members import loaded as loading
from fedvlr_jax.commands.members import training
from fedvlr_jax.commands.members.loaded import Loaded
from fedvlr_jax.commands.searching import study as studies
from fedvlr_jax.commands.searching.space import parse_space, parse_spaces
from fedvlr_jax.commands.tables.reproduce import command_of, wrapped
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.selection import Selection
from fedvlr_jax.training import RunState

pytestmark = pytest.mark.usefixtures("undrawn")

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
    assert error.value.line.startswith(f"--space={text}: ") and "\n" not in error.value.line


def test_a_space_is_given_once():
    with pytest.raises(InputError, match="fusion is there twice"):
        parse_spaces(["fusion=none,mlp", "fusion=mlp,vbpr"], Config())
    with pytest.raises(InputError, match="nothing to search"):
        parse_spaces([], Config())


def make_base(folder):
    return Config.from_flat(**SIZES, workdir=str(folder), baselines=False)


def make_study(folder, **changes):
    base = make_base(folder)
    options = dict(sampler="tpe", seed=0, trials=5, budget=0, batch=1) | changes
    settings = {**base.flat, "space": SPACE}
    settings |= {name: options[name] for name in ("sampler", "batch")}
    given = studies.StudyOptions(**options)
    return studies.Study(folder, parse_spaces(SPACE, base), settings, "data", given)


def told_by(study, count, value=1.0):
    """The choices of the trials of the next batches, each told `value`."""
    choices = []
    for _ in range(count):
        for asked in study.ask():
            choices.append(asked.choice)
            study.tell(asked, studies.FINISHED, 4, value, "")
    return choices


def places(batch):
    return [int(asked.folder.name.removeprefix("trial")) for asked in batch]


def test_a_search_continues_with_the_draws_of_an_undisturbed_one(tmp_path):
    whole = told_by(make_study(tmp_path / "whole"), 5)
    assert len(set(whole)) == 5
    parts = told_by(make_study(tmp_path / "w"), 2)
    parts += told_by(make_study(tmp_path / "w"), 3)
    assert parts == whole
    assert make_study(tmp_path / "w").ask() == []
    assert [trial.folder for trial in make_study(tmp_path / "w").told()][-1] == "trial0004"


def test_processes_share_trials_and_take_over_abandoned_ones(tmp_path):
    one, other = make_study(tmp_path), make_study(tmp_path)
    (first,), (second,) = one.ask(), other.ask()
    assert (first.folder.name, second.folder.name) == ("trial0000", "trial0001")
    one.leave(first)
    (again,) = other.ask()
    assert again.folder == first.folder and again.choice == first.choice
    assert places(one.ask()) == [2]
    other.tell(again, studies.FINISHED, 4, 2.0, "")
    assert [trial.folder for trial in one.told()] == ["trial0000"]


def test_the_budget_counts_rounds_and_trials_under_way(tmp_path):
    study = make_study(tmp_path, budget=8)
    told_by(study, 1)
    assert places(study.ask()) == [1] and study.ask() == []
    # Of a batch of four, two trials exhaust it.
    assert places(make_study(tmp_path / "four", batch=4, budget=8).ask()) == [0, 1]


def test_a_batch_is_drawn_before_it_is_told_and_continues(tmp_path):
    draw = lambda name: make_study(tmp_path / name, trials=7, batch=3)
    whole = told_by(draw("whole"), 3)
    assert len(set(whole)) == 7
    # Stopped after one trial of the second batch was told: the other two are taken up, alone.
    parts = told_by(draw("w"), 1)
    one, *others = draw("w").ask()
    parts += [one.choice, *(asked.choice for asked in others)]
    study = draw("w")
    study.tell(one, studies.FINISHED, 4, 1.0, "")
    for asked in others:
        study.leave(asked)
    again = study.ask()
    assert places(again) == [4, 5] and [a.choice for a in again] == parts[4:]
    for asked in again:
        study.tell(asked, studies.FINISHED, 4, 1.0, "")
    last = study.ask()
    assert places(last) == [6] and study.ask() == []
    assert [*parts, last[0].choice] == whole


def test_a_batch_that_was_drawn_in_part_is_completed(tmp_path, monkeypatch):
    study = make_study(tmp_path, batch=3)
    begun = study._begun

    def killed(place):
        if place == 2:
            raise KeyboardInterrupt
        return begun(place)

    monkeypatch.setattr(study, "_begun", killed)
    with pytest.raises(KeyboardInterrupt):
        study.ask()
    assert places(make_study(tmp_path, batch=3).ask()) == [0, 1, 2]


def test_the_trials_of_a_batch_may_end_in_any_order(tmp_path):
    """The sampler reads them in the order in which they were drawn."""
    value = lambda asked: -((dict(asked.choice)["client_lr"] - 1.0) ** 2)
    draw = lambda name: make_study(tmp_path / name, trials=16, batch=4)

    def told(study, batch):
        for asked in batch:
            study.tell(asked, studies.FINISHED, 4, value(asked), "")
        return [asked.choice for asked in batch]

    whole, study = [], draw("whole")
    while batch := study.ask():
        whole += told(study, batch)
    parts = []
    while batch := (study := draw("w")).ask():
        first, *others = batch
        rest = told(study, others)
        study.leave(first)
        parts += [*told(draw("w"), draw("w").ask()), *rest]
    assert parts == whole


def test_a_trial_whose_process_died_while_it_drew_changes_no_draw(tmp_path, monkeypatch):
    whole = told_by(make_study(tmp_path / "whole", trials=6), 6)
    parts = told_by(make_study(tmp_path / "w", trials=6), 3)
    study = make_study(tmp_path / "w", trials=6)
    asked = study._asked

    def killed(trial, place, held):
        asked(trial, place, held)
        held.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "_asked", killed)
    with pytest.raises(KeyboardInterrupt):
        study.ask()
    assert parts + told_by(make_study(tmp_path / "w", trials=6), 3) == whole


def test_a_trial_that_is_taken_up_goes_on_with_its_reports(tmp_path, recwarn):
    study = make_study(tmp_path)
    (first,) = study.ask()
    for place in (0, 2):
        first.trial.report(1.0, place)
    study.leave(first)
    (again,) = make_study(tmp_path).ask()
    assert (first.reported, again.reported) == (-1, 2)
    again.trial.should_prune = lambda: True
    trial = command.Trial(again, types.SimpleNamespace(directory=again.folder))
    simulation = types.SimpleNamespace(selection=Selection("all", "ndcg", 50))
    behind = command._watch(study, [trial], simulation, set())
    # Up to round 2 the decisions were made.
    entries = [{"round": place, "valid": {"ndcg@50": 3.0}} for place in (0, 2, 4)]
    run = RunState(None, None, 0, tuple(entries[:1]), None, "")
    assert behind([trial.member], [run]) == []
    (known,) = study._known()
    assert known.intermediate_values == {0: 1.0, 2: 1.0}
    again.trial.should_prune = lambda: False
    assert behind([trial.member], [run._replace(evaluations=tuple(entries))]) == []
    (known,) = study._known()
    assert known.intermediate_values == {0: 1.0, 2: 1.0, 4: 3.0} and not recwarn.list


def test_a_trial_that_is_told_meanwhile_is_not_taken_up(tmp_path, monkeypatch):
    one, other = make_study(tmp_path), make_study(tmp_path)
    (first,) = one.ask()
    known = other._known

    def told_meanwhile():
        found = known()
        if not one.told():
            one.tell(first, studies.FINISHED, 4, 1.0, "")
        return found

    monkeypatch.setattr(other, "_known", told_meanwhile)
    assert places(other.ask()) == [1]
    assert [trial.state for trial in one.told()] == [studies.FINISHED]


def test_another_batch_is_another_search(tmp_path):
    study = make_study(tmp_path)
    with pytest.raises(InputError, match="batch was 1, is 3"):
        make_study(tmp_path, batch=3)
    # Earlier versions did not record it.
    saved = {k: v for k, v in study._study.user_attrs["settings"].items() if k != "batch"}
    study._study.set_user_attr("settings", saved)
    make_study(tmp_path)
    with pytest.raises(InputError, match="batch was 1, is 3"):
        make_study(tmp_path, batch=3)


def test_a_folder_of_another_search_is_refused(tmp_path):
    make_study(tmp_path)
    # A search has no --overwrite.
    refused = "sampler was 'tpe', is 'random'; give another directory or the same flags$"
    with pytest.raises(InputError, match=refused):
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


@pytest.fixture
def flags(monkeypatch):
    values = {"sampler": "tpe", "space": SPACE, "search_seed": 0, "keep_best_model": True}
    values |= {"batch": 1, "members_at_once": 0}
    for module in (command, training):
        monkeypatch.setattr(module, "FLAGS", types.SimpleNamespace(**values))


def prune_second(monkeypatch):
    """The pruner ends trial 1 at its first evaluation, and no other."""
    optuna = studies.optuna()

    class Pruner(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.user_attrs["place"] == 1

    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: Pruner())


@pytest.mark.parametrize(("batch", "calm"), [(1, 4), (3, 1)])
def test_a_search_trains_prunes_and_names_the_best(batch, calm, flags, monkeypatch, tmp_path):
    """The second of three trials is pruned; a signal stops the third, which then continues."""
    prune_second(monkeypatch)
    folder = tmp_path / "w"
    base, loaded = make_base(folder), Loaded()
    with pytest.raises(Interrupted):
        command.search(make_study(folder, trials=3, batch=batch), base, loaded, Signal(calm))
    assert (folder / "trial0002/checkpoints").is_dir()
    study = make_study(folder, trials=3, batch=batch)
    command.search(study, base, loaded, Signal(10**9))
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


@pytest.mark.parametrize(
    ("values", "rounds", "found"),
    [
        ((30.0, 30.0), (0, 0), "All 2 finished trials have the same value (all select round 0); *"),
        ((30.0, 30.0), (0, 4), "All 2 finished trials have the same value; * is the first."),
        ((30.0, 31.0), (0, 0), ""),
        ((30.0,), (0,), ""),
    ],
)
def test_a_table_of_trials_that_all_tie_says_so(values, rounds, found, flags, tmp_path):
    told = [studies.Told("trial0009", "a pruned one", "pruned", None, 2)]
    for number, (value, selected) in enumerate(zip(values, rounds, strict=True)):
        told.append(studies.Told(f"trial{number}", "client_lr=1", "finished", value, 4))
        run = RunDirectory.create(tmp_path / told[-1].folder, overwrite=False)
        run.write_config({"flags": Config().flat})
        run.write_metrics([])
        run.write_summary(
            {"valid": {"ndcg@50": value}, "selected_round": selected, "rounds_run": 4}
        )
    command.write_search(told, Config(), tmp_path)
    for file in ("search.md", "index.html"):
        text = (tmp_path / file).read_text()
        assert found in text and ("finished trials have" in text) == bool(found)


def test_trials_of_a_batch_have_the_numbers_that_they_have_alone(flags, monkeypatch, tmp_path):
    """To the bit, also where the compiled shapes of a batch differ."""
    space = ["client_lr=log:0.1:10", "fusion=none,vbpr"]
    calls = []
    train = training.train_together
    count = lambda part, *args, **kwargs: calls.append(len(part)) or train(part, *args, **kwargs)
    monkeypatch.setattr(training, "train_together", count)

    def lines(name, batch):
        base = make_base(tmp_path / name)
        settings = {**base.flat, "batch": batch}
        found = parse_spaces(space, base)
        options = studies.StudyOptions("random", seed=0, trials=4, batch=batch, prune=False)
        study = studies.Study(tmp_path / name, found, settings, "data", options)
        command.search(study, base, Loaded(), Signal(10**9))
        read = lambda told: (tmp_path / name / told.folder / "metrics.jsonl").read_bytes()
        return [(told.choice, told.valid, read(told)) for told in study.told()]

    alone = lines("alone", 1)
    assert calls == [1, 1, 1, 1]
    calls.clear()
    assert lines("together", 4) == alone
    assert len(calls) == 2 and sum(calls) == 4
    assert len({metrics for _, _, metrics in alone}) == 4


def test_each_trial_has_its_own_data_and_baselines(monkeypatch):
    """--recency weighs histories. Baselines see no hostile client."""
    seen = []
    record = lambda dataset, *_: seen.append(dataset) or (len(seen), {})
    monkeypatch.setattr(loading, "summarise_baselines", record)
    loaded = Loaded()
    config = lambda **flags: Config.from_flat(**SIZES, **flags)
    choices = ({}, {"client_lr": 2.0}, {"attack": "label_flip"}, {"recency": 0.5}, {})
    found = [loaded.baselines(config(**flags))[0] for flags in choices]
    assert found == [1, 1, 1, 2, 1]
    assert [len(dataset.train.counts) for dataset in seen] == [40, 40]
    assert loaded.dataset(config(recency=0.5)).train.weight is not None
    programs = command._programs(loaded, config(recency=0.5, fusion="none", init="random"))
    assert programs.simulation.dataset.train.weight is not None


def test_a_command_is_broken_between_flags():
    config = Config.from_flat(views="id,text", client_lr=0.5, baselines=False, workdir="w")
    command_text = command_of(config, workdir="my runs/best")
    assert command_text.startswith("fedvlr train ") and "'--workdir=my runs/best'" in command_text
    lines = wrapped(command_text, 40)
    assert max(map(len, lines.splitlines())) <= 40
    assert shlex.split(lines.replace("\\\n", "")) == shlex.split(command_text)
