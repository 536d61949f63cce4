"""watch, show, doctor and completion."""

import subprocess
import sys
import types

import pytest
from absl import flags

from fedvlr_jax.commands import cli, completion, doctor, show, watch
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory


def entry(number):
    valid = {"hr@50": 10.0 + number, "ndcg@50": 5.0}
    return {"round": number, "loss": 0.5, "valid": valid, "best_round": 0}


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path / "w", overwrite=False)
    run.write_config({"flags": Config.from_flat(rounds=4).flat, "command": "fedvlr train"})
    run.append_metrics(entry(0))
    return run


def test_a_run_is_followed_to_its_end(run):
    def wait():
        seen.append("waited")
        run.append_metrics(entry(2 * len(seen)))
        if len(seen) == 2:
            run.write_summary({"rounds_run": 4})
        return True

    seen = []
    assert [found["round"] for found in watch.follow(run, wait)] == [0, 2, 4]
    assert seen == ["waited", "waited"]
    assert watch.line_of(entry(2), 4) == (
        "round 2/4  loss 0.5000  valid HR@50 12.0  NDCG@50 5.0  best round 0"
    )


def test_a_run_that_begins_again_is_followed_from_there(run):
    steps = iter([lambda: run.write_metrics([entry(0)]), lambda: run.append_metrics(entry(2))])

    def wait():
        step = next(steps, None)
        if step is not None:
            step()
        return step is not None

    run.append_metrics(entry(2))
    assert [found["round"] for found in watch.follow(run, wait)] == [0, 2, 2]


def test_watching_once(run, monkeypatch, capsys):
    monkeypatch.setattr(watch, "FLAGS", types.SimpleNamespace(workdir=str(run.path), once=True))
    watch.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("w: fedvlr train") and printed[-1] == "not finished"
    assert printed[1].startswith("round 0/4")
    (run.path / "summary.json").write_text("{}")
    watch.main()
    assert capsys.readouterr().out.endswith(f"finished; report: {run.path / 'report.html'}\n")
    monkeypatch.setattr(watch, "FLAGS", types.SimpleNamespace(workdir="nowhere", once=True))
    with pytest.raises(InputError, match="nowhere: found nothing"):
        watch.main()


def test_a_run_without_checkpoints_is_shown_in_one_line(run, monkeypatch, capsys):
    given = types.SimpleNamespace(workdir=str(run.path), round=None, values=False)
    monkeypatch.setattr(show, "FLAGS", given)
    with pytest.raises(InputError, match=r"w: has no checkpoint; .*keep_best_model"):
        show.main()
    assert capsys.readouterr().out == ""


def test_the_doctor_names_what_is_here_and_what_is_wrong(monkeypatch, tmp_path, capsys):
    (tmp_path / "KU").mkdir()
    monkeypatch.setattr(doctor, "FLAGS", types.SimpleNamespace(data_root=str(tmp_path)))
    doctor.main()
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for row in ("jax ", "devices", "memory", "cache folder", "free disk here", "clock", "KU"):
        assert row in printed
    monkeypatch.setattr(doctor, "REQUIRED", ("no-such-package",))
    with pytest.raises(InputError, match="1 of the rows"):
        doctor.main()
    assert "FAULT: not installed; pip install no-such-package" in capsys.readouterr().out


COMMANDS = {"train": {"fusion": ["none", "mlp"], "rounds": []}, "sweep": {"over": []}}


def completed(tmp_path, *words):
    """What bash offers for the last of the words."""
    path = tmp_path / "completion.bash"
    path.write_text(completion.script("bash", COMMANDS))
    given = " ".join(f"'{word}'" for word in ("fedvlr", *words))
    line = f"source {path}; COMP_WORDS=({given}); COMP_CWORD={len(words)}; _fedvlr; "
    line += 'printf "%s\\n" "${COMPREPLY[@]}"'
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    return [word.strip() for word in result.stdout.splitlines() if word.strip()]


def test_bash_completes_commands_flags_and_values(tmp_path):
    assert completed(tmp_path, "tr") == ["train"]
    assert completed(tmp_path, "train", "--") == ["--fusion=", "--rounds="]
    assert completed(tmp_path, "sweep", "--o") == ["--over="]
    assert completed(tmp_path, "train", "--fusion", "=") == ["none", "mlp"]
    assert completed(tmp_path, "train", "--fusion", "=", "m") == ["mlp"]
    assert completed(tmp_path, "train", "--fusion=m") == ["--fusion=mlp"]


def test_flags_come_from_the_commands():
    before = set(flags.FLAGS)
    found = completion.flags_of("show")
    assert {"workdir", "values", "preset", "help"} <= set(found)
    assert found["values"] == ["true", "false"] and "closed" in found["preset"]
    assert completion.CHOICES["protocol"]
    assert set(flags.FLAGS) == before


def test_a_shell_that_is_unknown_is_refused(monkeypatch):
    monkeypatch.setattr(completion, "FLAGS", types.SimpleNamespace(shell="fish"))
    with pytest.raises(InputError, match="give bash or zsh"):
        completion.main()


def test_light_commands_load_no_jax():
    code = (
        "import sys; sys.argv = ['fedvlr', 'completion', '--help']\n"
        "from fedvlr_jax.commands.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({'jax', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "set()"
    assert set(cli.LIGHT) < set(cli.COMMANDS) and set(cli.FIRST_ARGUMENT) < set(cli.COMMANDS)


def test_a_command_line_of_train_is_read_without_matplotlib():
    code = (
        "import sys, fedvlr_jax.commands.train\n"
        "print({'matplotlib', 'jinja2', 'optuna'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
