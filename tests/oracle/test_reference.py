"""Tests of the reference: gradients against central differences, and hand-computed numbers."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest

from tests.oracle import reference, uploads
from tests.oracle.reference import Variable, constant

WIDTH, ITEMS = 4, 6
VIEWS = ("id", "text", "table", "sum", "mixture", "mlp", "gate", "attention", "cross_attention")
SHAPES = {
    "table": (ITEMS, WIDTH),
    "mixture/logits": (2,),
    "mlp/1/kernel": (2 * WIDTH, WIDTH),
    "gate/out/kernel": (2 * WIDTH, WIDTH),
    "map/text/kernel": (3, WIDTH),
}
SQUARE = ("map/id", "mlp/2", "gate/id", "gate/text")
SQUARE += tuple(f"{a}/{b}" for a in ("attention", "cross_attention") for b in ("query", "key"))
SQUARE += ("attention/value", "cross_attention/value")
BIASED = (*SQUARE, "map/text", "mlp/1", "gate/out")
NORMS = ("norm/id", "norm/text", "mlp/norm", "gate/norm", "attention/norm", "cross_attention/norm")
CLIENT = reference.Client(
    history=np.array([0, 3, 4]),
    time=np.array([2, 1, 2]),
    pool=np.arange(ITEMS),
    epochs=1,
    negatives=(np.array([1, 5, 1]),),
)
HEADS = {
    "fcf": ({"user": (WIDTH,), "bias": ()}, {}),
    "fedavg": ({}, {"weight": (WIDTH,), "bias": ()}),
    "pfedrec": ({"weight": (WIDTH,), "bias": (), "rows": (ITEMS, WIDTH)}, {}),
    "fedrap": ({"weight": (WIDTH,), "bias": (), "rows": (ITEMS, WIDTH)}, {}),
    "fedncf": (
        {"user_gmf": (WIDTH,), "user_mlp": (WIDTH,)},
        {f"mlp/{i}/kernel": s for i, s in enumerate([(8, 4), (4, 2), (2, 1)])}
        | {f"mlp/{i}/bias": (n,) for i, n in enumerate([4, 2, 1])}
        | {"out/kernel": (WIDTH + 1, 1), "out/bias": (1,)},
    ),
}


def test_it_imports_nothing_of_what_it_checks():
    expected = {
        reference: ["dataclasses", "itertools", "numpy", "tests.oracle import uploads"],
        uploads: ["numpy"],
    }
    for module, names in expected.items():
        text = pathlib.Path(module.__file__).read_text()
        imported = re.findall(r"^\s*(?:import|from) (tests.*|\w+)", text, re.MULTILINE)
        assert imported == names


def drawn(rng, shapes):
    return {name: rng.normal(0, 0.6, shape) for name, shape in shapes.items()}


def shared_shapes():
    shapes = SHAPES | {f"{name}/kernel": (WIDTH, WIDTH) for name in SQUARE}
    shapes |= {f"{name}/bias": (WIDTH,) for name in (*BIASED, *NORMS)}
    return shapes | {f"{name}/scale": (WIDTH,) for name in NORMS}


@pytest.mark.parametrize("backbone", HEADS)
@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize("negatives", ["sampled", "expected"])
def test_gradients_are_those_of_central_differences(backbone, loss, negatives):
    rng = np.random.default_rng(3)
    options = reference.Options(
        backbone=backbone,
        loss=loss,
        negatives=negatives,
        num_negatives=1,
        views=VIEWS,
        recency=0.5,
        history_weight=0.4,
        fedrap_repulsion=0.3,
        fedrap_l1=0.2,
    )
    features = {"text": rng.normal(size=(ITEMS, 3))}
    count = len(VIEWS) * WIDTH
    router = {"router/1/kernel": (count, 3), "router/1/bias": (3,)}
    router |= {"router/2/kernel": (3, len(VIEWS)), "router/2/bias": (len(VIEWS),)}
    private_shapes, head_shapes = HEADS[backbone]
    groups = [
        drawn(rng, shared_shapes()),
        drawn(rng, private_shapes | router),
        drawn(rng, head_shapes),
    ]

    def value(groups):
        shared, private, head = groups
        catalogue = reference.views(options, shared, features)
        return reference.client_loss(options, private, head, catalogue, CLIENT, 0, 5)

    variables = [{name: Variable(x) for name, x in group.items()} for group in groups]
    value(variables).backward()
    step = 1e-5
    for place, group in enumerate(groups):
        for name, array in group.items():
            # One direction a leaf holds all of its entries.
            direction = rng.normal(size=array.shape)
            at = []
            for sign in (1, -1):
                moved = [{n: constant(x) for n, x in g.items()} for g in groups]
                moved[place][name] = constant(array + sign * step * direction)
                at.append(float(value(moved).value))
            found = np.sum(variables[place][name].gradient * direction)
            assert found == pytest.approx((at[0] - at[1]) / (2 * step), rel=1e-6, abs=1e-9), name


def test_recent_items_count_more_and_equal_times_alike():
    # No item is newer than the first. The other two have equal times and share the values 1 and 2.
    weights = reference.recency_weights(np.array([9, 4, 4]), 1.0)
    np.testing.assert_allclose(weights, np.array([1, 1 / 2.5, 1 / 2.5]) / 0.6)


def test_a_row_counts_as_often_as_it_is_expected():
    options = reference.Options(num_negatives=2)
    positive, negative = reference.row_counts(options, CLIENT, 0, ITEMS)
    # Two negatives for each of three positives, over three items that are free.
    np.testing.assert_allclose(positive, [1, 0, 0, 1, 1, 0])
    np.testing.assert_allclose(negative, [0, 2, 2, 0, 0, 2])


def test_clipping_is_joint():
    upload = {"views": np.array([3.0]), "head/bias": np.array([4.0])}
    clipped, was = uploads.clip(upload, 1.0)
    assert was and clipped == {"views": pytest.approx([0.6]), "head/bias": pytest.approx([0.8])}
    assert uploads.clip(upload, 6.0) == (upload, False)


def test_weights_are_equal_or_by_the_length_of_the_history():
    short = dataclasses.replace(CLIENT, history=np.array([2]))
    absent = dataclasses.replace(CLIENT, epochs=0)
    clients = [CLIENT, short, absent]
    for backbone, expected in (("fedavg", [0.75, 0.25, 0]), ("fcf", [0.5, 0.5, 0])):
        weights = reference.aggregation_weights(reference.Options(backbone=backbone), clients)
        np.testing.assert_allclose(weights, expected)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    # Gradients 2 and 1, initial value 0, step 0.1.
    [
        ("sgd", -0.2, -0.3),
        ("momentum", -0.2, -0.2 - 0.1 * (0.9 * 2 + 1)),
        # The first step is the sign; then 0.9 * 0.2 + 0.1 over 0.19, by the root of the mean of
        # the squares, 0.999 * 0.004 + 0.001 over 0.001999.
        ("adam", -0.1, -0.1 - 0.1 * (0.28 / 0.19) / np.sqrt(0.004996 / 0.001999)),
        ("none", 0.0, 0.0),
    ],
)
def test_server_optimizers_by_hand(name, first, second):
    options = reference.Options(server_optimizer=name, server_lr_items=0.1, server_decay=0.0)
    shared = {"table": np.zeros(1)}
    optimizer = reference.optimizer_start(options, shared)
    for gradient, expected in ((2.0, first), (1.0, second)):
        shared, optimizer = reference.server_step(
            options, shared, {"table": np.array([gradient])}, optimizer
        )
        assert shared["table"][0] == pytest.approx(expected, rel=1e-6)


def test_decay_is_by_the_step_and_spares_the_head():
    options = reference.Options(
        server_optimizer="sgd", server_lr_items=0.1, server_lr_head=0.1, server_decay=2.0
    )
    shared = {"table": np.ones(1), "head/bias": np.ones(1)}
    gradient = {name: np.zeros(1) for name in shared}
    new, _ = reference.server_step(
        options,
        shared,
        gradient,
        {"step": 0, "first": {}, "second": {}}
        | {k: {n: np.zeros(1) for n in shared} for k in ("first", "second")},
    )
    assert new["table"] == pytest.approx(0.8) and new["head/bias"] == 1


def numbers(*values):
    return [{"views": np.array([[[value]]], float)} for value in values]


def test_rules_by_hand():
    """Uploads of one number each; f = floor(0.2 * 6) = 1."""
    options = reference.Options(byzantine_share=0.2, num_clients=8, client_dropout=0.25)
    given = numbers(0.0, 1.0, 2.0, 3.5, 4.0, 9.0)
    weights = [1.0, 1.0, 1.0, 1.0, 1.0, 3.0]
    found = {
        name: float(rule(options, given, weights)["views"][0, 0, 0])
        for name, rule in uploads.RULES.items()
        if name != "secure"
    }
    assert found.pop("geometric_median") == pytest.approx(4.0, abs=0.1)
    # Krum scores, with three neighbours: 17.25, 8.25, 7.25, 8.75, 13.25, 104.25.
    # Bulyan selects 1, 2, 3.5 and 4, and takes the two nearest to their median 2.75.
    expected = {
        "float32": 4.6875,
        "int32": 4.6875,
        "fixed_mean": 19.5 / 6,
        "median": 2.75,
        "trimmed_mean": 10.5 / 4,
        "krum": 2.0,
        "multi_krum": 10.5 / 5,
        "bulyan": 2.75,
        # The median norm is 2.75. The first client did not touch the row, and the median norm of
        # the others is 3.5.
        "norm_bound": (3 + 2 * 2.75 + 3 * 2.75) / 8,
        "row_median": 3.5 * 5 / 6,
    }
    assert found == pytest.approx(expected)


def test_a_row_that_few_clients_touch_is_zero():
    options = reference.Options(byzantine_share=0.0)
    touched = uploads.row_median(options, numbers(1.0, 2.0, 3.0, 0.0), [1] * 4)
    assert touched["views"] == pytest.approx(2 * 3 / 4)
    assert not np.any(uploads.row_median(options, numbers(1.0, 2.0, 0.0), [1] * 3)["views"])


def test_what_a_client_sends_by_hand():
    rows = np.array([[3.0, -1.0], [0.5, 0.2], [0.0, 2.0]])[:, None, :]
    assert np.flatnonzero(uploads.longest_rows(rows, 2).any((1, 2))).tolist() == [0, 2]
    # Three levels: 1 / 3 of the largest value is level 1, exactly; 0.2 of 0.5 is level 1.2.
    for uniform, second in ((0.79, 1), (0.81, 2)):
        found = uploads.quantised(rows, 3, np.full(rows.shape, uniform))
        np.testing.assert_allclose(found[0, 0], [3, -1])
        assert found[1, 0, 1] == pytest.approx(0.5 * second / 3)
    basis = np.array([[0.6], [0.8]])
    np.testing.assert_allclose(uploads.projected(rows, basis)[0, 0], [0.6, 0.8])


def test_whole_levels_noise_and_bounds_by_hand():
    options = reference.Options(secure_bound=2.0, secure_levels=16, aggregation="secure")
    levels, clamped = uploads.in_levels(options, {"views": np.array([0.9, -0.3, 5.0])}, {})
    assert levels["views"].tolist() == [3, -1, 8] and clamped
    total = uploads.secure(options, [levels, {"views": np.array([1, 1, 0])}], [1, 1])
    assert total["views"].tolist() == [0.5, 0.0, 1.0]
    noisy = dict(noise_multiplier=3.0, num_clients=4)
    by_clients = reference.Options(**noisy)
    assert uploads.noise_deviation(by_clients, [1, 3], 2.0) == pytest.approx(6 * 10**0.5 / 4)
    central = reference.Options(**noisy, noise="central", aggregation="fixed_mean")
    assert uploads.noise_deviation(central, [1, 1], 2.0) == pytest.approx(1.5)
    adaptive = reference.Options(clip_quantile=0.5)
    assert uploads.next_bound(adaptive, 2.0, [True, True, True, False]) == pytest.approx(
        2 * np.exp(0.05)
    )
