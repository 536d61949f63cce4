"""A results page takes its tables and plots from files, and keeps what is written by hand."""

import pytest

from fedvlr_jax.commands.results import filled
from fedvlr_jax.errors import InputError

PAGE = """# Title

<!-- from ku/table.md -->
an older table
<!-- end -->

By hand.

<!-- from ku/plot.svg -->
<!-- end -->

<!-- from ml/table.md -->
kept
<!-- end -->
"""


def test_places_are_filled_and_the_rest_stays(tmp_path):
    with pytest.raises(InputError, match=r"has no folder that the page names, e.g. of ku/table.md"):
        filled(PAGE, tmp_path, tmp_path / "figures")
    (tmp_path / "ku").mkdir()
    with pytest.raises(InputError, match=r"table.md, which does not exist"):
        filled(PAGE, tmp_path, tmp_path / "figures")
    (tmp_path / "ku/table.md").write_text("| a |\n|---|\n| 1 |\n")
    (tmp_path / "ku/plot.svg").write_text("<svg/>")
    page, count = filled(PAGE, tmp_path, tmp_path / "figures")
    assert count == 2 and "\nkept\n" in page
    assert "| 1 |" in page and "an older table" not in page and "\nBy hand.\n" in page
    assert "![plot](figures/ku-plot.svg)" in page
    assert (tmp_path / "figures/ku-plot.svg").read_text() == "<svg/>"
    assert filled(page, tmp_path, tmp_path / "figures") == (page, 2)
