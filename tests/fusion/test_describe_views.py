"""The lines about views that a run prints at its start."""

import pytest

from fedvlr_jax.fusion import describe_views, make_fusion

WIDTHS = {"text": 3, "image": 2}


@pytest.mark.parametrize(
    "name, views, expected",
    [
        (
            "bilevel",
            ("id", "text", "image"),
            ["views: id, text, image, weighted by the router of each client"],
        ),
        ("mlp", (), ["views: mlp"]),
        ("vbpr", (), ["views: vbpr"]),
        ("none", (), ["views: id", "no view uses the features text, image"]),
        ("bilevel", ("id", "text"), ["views: id, text", "no view uses the features image"]),
        ("bilevel", ("id", "gate"), ["views: id, gate"]),
        ("bilevel", ("id",), ["views: id", "no personal fusion", "no view uses the features"]),
    ],
)
def test_views_and_unused_features_are_named(name, views, expected):
    fusion = make_fusion(name, views=views, width=4, hidden=3, widths=WIDTHS)
    lines = describe_views(fusion, WIDTHS)
    assert len(lines) == len(expected)
    for line, piece in zip(lines, expected, strict=True):
        assert piece in line
