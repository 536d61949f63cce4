import pytest


@pytest.fixture
def run(tmp_path, programs):
    """run("train", "--rounds=3", ...): the command in an empty folder; what it printed."""

    def run(module, *arguments):
        return programs.run(f"experiments.{module}", *arguments, cwd=tmp_path)

    return run
