"""The public surface: what `import fedvlr_jax` gives, and the checks of outside objects."""

import ast
import dataclasses
import inspect
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedvlr_jax as fj
from examples import own_backbone, own_clock, own_dataset, own_fusion, own_rule
from fedvlr_jax.config import ModelConfig
from fedvlr_jax.federated.server_optimizer import SERVER_OPTIMIZERS
from fedvlr_jax.fusion.fusion import FUSIONS, FusionOptions
from fedvlr_jax.models import BACKBONES
from fedvlr_jax.reduce import REDUCTIONS
from fedvlr_jax.training.summary import summarise_run

PUBLIC = [name for name in fj.__all__ if name != "__version__"]


def test_every_public_name_can_be_had():
    assert set(fj.__all__) <= set(dir(fj))
    for name in PUBLIC:
        getattr(fj, name)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        fj.trian  # noqa: B018


def test_type_checkers_see_the_public_names():
    """`__all__` is a literal, and an import under TYPE_CHECKING has each of its names."""
    tree = ast.parse(pathlib.Path(fj.__file__).read_text())
    (listed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = [alias.name for node in block.body for alias in node.names]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    assert sorted([*imported, "__version__"]) == sorted(listed)
    assert pathlib.Path(fj.__file__).with_name("py.typed").exists()


def named_in(docstring, name):
    return any(f"{name}{end}" in docstring for end in ":,") or f"`{name}`" in docstring


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_says_what_it_takes_has_and_raises(name):
    public = getattr(fj, name)
    docstring = vars(public).get("__doc__") if inspect.isclass(public) else public.__doc__
    # A class without a docstring has the signature for one.
    assert docstring and not docstring.startswith(f"{name}(")
    if not inspect.isclass(public):
        assert "Raises:" in docstring
        parameters = inspect.signature(public).parameters
        assert [p for p in parameters if not named_in(docstring, p)] == []
        return
    fields = list(getattr(public, "_fields", ()))
    if dataclasses.is_dataclass(public):
        fields = [field.name for field in dataclasses.fields(public)]
    assert [field for field in fields if not named_in(docstring, field)] == []
    members = {n: m for n, m in vars(public).items() if not n.startswith("_") and n not in fields}
    for member in members.values():
        function = getattr(member, "fget", None) or getattr(member, "func", member)
        function = getattr(function, "__func__", function)
        assert not inspect.isfunction(function) or function.__doc__


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"config": {"rounds": 3}}, "config: found dict, expected fedvlr_jax.Config"),
        ({"dataset": "KU"}, "dataset: found str, expected fedvlr_jax.Dataset"),
        ({"backbone": "fcf"}, "backbone: found str, expected fedvlr_jax.Backbone"),
        ({"fusion": "none"}, "fusion: found str, expected fedvlr_jax.Fusion"),
        ({"aggregator": "krum"}, "aggregator: found str, expected fedvlr_jax.Aggregator"),
    ],
)
def test_an_argument_of_another_type_is_one_line(given, found):
    dataset = fj.Dataset.from_arrays(user=[0, 0, 0], item=[0, 1, 2])
    arguments = {"config": fj.Config(), "dataset": dataset, **given}
    with pytest.raises(fj.InputError, match=f"^{found}$"):
        fj.make_simulation(**arguments)


@pytest.fixture(scope="module")
def simulation():
    dataset = fj.Dataset.from_arrays(user=[0, 0, 0, 0], item=[0, 1, 2, 3])
    return fj.make_simulation(fj.Config.from_flat(init="random", width=2), dataset)


@pytest.fixture(scope="module")
def donated(simulation):
    state = simulation.init()
    simulation.run_rounds(state, 1)
    return state


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda s, old: s.init(seed=-1), "seed=-1: out of range; give .* at most 2147483647"),
        (lambda s, old: s.init(seed=0.5), "seed=0.5: give a value of type int"),
        (lambda s, old: s.run_rounds(s.init(), 1.0), "num_rounds=1.0: give a whole number .*"),
        (lambda s, old: s.run_rounds(1, s.init()), "state: found int, expected fedvlr_jax.State"),
        (lambda s, old: s.run_rounds(old, 1), "state: was given to run_rounds before, .*"),
        (lambda s, old: s.evaluate(old, "test"), "state: was given to run_rounds before, .*"),
        (lambda s, old: s.recommend(old, 1), "state: was given to run_rounds before, .*"),
        (lambda s, old: s.evaluate(s.init(), "tset"), "split=tset: not known; .* valid, test"),
        (lambda s, old: s.evaluate(7, "test"), "state: found int, expected fedvlr_jax.State"),
        (lambda s, old: fj.train(fj.Config()), "simulation: found Config, expected .*Simulation"),
        (lambda s, old: fj.train(s, s.init()), "run: found State, expected .*RunState"),
    ],
)
def test_a_wrong_call_is_one_line(simulation, donated, call, found):
    with pytest.raises(fj.InputError, match=f"^{found}$"):
        call(simulation, donated)


def test_an_error_names_options_as_they_are_given():
    """Without dashes in Python; as flags on the command line."""
    with pytest.raises(fj.InputError) as caught:
        fj.Config.from_flat(min_local_epochs=9)
    flags = "--min_local_epochs=9: more than --local_epochs=5"
    assert caught.value.line == flags
    assert str(caught.value) == flags.replace("--", "")
    value = fj.InputError("a--b/--c: found '--x', (--y), 3--4; use --seeds=1")
    assert str(value) == "a--b/--c: found 'x', (y), 3--4; use seeds=1"
    assert str(fj.NonFiniteError("lower --width", None)) == "lower width"


def test_the_folder_of_the_data_is_that_of_the_flag(tmp_path, monkeypatch):
    default = inspect.signature(fj.load_dataset).parameters["data_root"].default
    assert default == fj.Config().data.data_root


def test_importing_the_package_loads_no_jax():
    code = (
        "import sys, fedvlr_jax as fj; (fj.Config, fj.InputError, fj.NonFiniteError); "
        "print('jax' in sys.modules, fj.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", fj.__version__]


EXAMPLES = (own_rule, own_backbone, own_fusion, own_dataset, own_clock)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.__name__)
@pytest.mark.slow
def test_an_example_runs(example, capsys):
    # All rounds, as a person runs it: a rate may be too large only after a few.
    assert np.isfinite(example.main())
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(BACKBONES))
@pytest.mark.slow
def test_every_backbone_keeps_the_contract(name):
    fj.check_backbone(BACKBONES[name](ModelConfig(fedrap_repulsion=0.1, fedrap_l1=0.1)))


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
@pytest.mark.slow
def test_every_rule_keeps_the_contract(name):
    config = fj.Config.from_flat(aggregation=name, clip_norm=0.5, clip_quantile=0.5)
    fj.check_aggregator(fj.make_aggregator(config, 6))


@pytest.mark.parametrize("name", sorted(SERVER_OPTIMIZERS))
def test_every_server_optimizer_keeps_the_contract(name):
    fj.check_aggregator(fj.make_aggregator(fj.Config.from_flat(server_optimizer=name), 6))


def broken_backbones():
    plain = BACKBONES["fcf"](ModelConfig())
    head = lambda key, width: {"vector": jnp.ones(width), "bias": jnp.zeros((), jnp.int32)}
    mean = lambda shared, private, vectors: vectors @ private["vector"] - vectors.mean()
    column = lambda *inputs: plain.score(*inputs)[:, None]
    root = lambda shared, private, vectors: jnp.sqrt(0 * vectors @ private["vector"])
    twice = lambda shared, private: (2 * private["vector"], private["bias"])
    return {
        "weight": plain._replace(weight="length"),
        "item_rows": plain._replace(item_rows="shared"),
        "penalty": plain._replace(penalty=lambda round: None),
        "init_private": plain._replace(init_private=head),
        "other rows": plain._replace(score=mean),
        "shape": plain._replace(score=column),
        "gradient": plain._replace(score=root, linear=None),
        "linear": plain._replace(linear=twice),
    }


@pytest.mark.parametrize("piece", broken_backbones())
def test_a_broken_backbone_is_named(piece):
    with pytest.raises(fj.InputError, match=piece):
        fj.check_backbone(broken_backbones()[piece])


@pytest.mark.parametrize("names", [("id", "text"), ("table", "text")], ids="-".join)
@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_every_fusion_keeps_the_contract(name, names):
    options = FusionOptions(names=names, width=8, hidden=6, widths={"text": 4})
    fj.check_fusion(FUSIONS[name](options), own_dataset.make_dataset(8, 60), width=8)


def broken_fusions():
    plain = own_fusion.gated_sum(8, 4)
    bilevel = FUSIONS["bilevel"](FusionOptions(("table", "text"), 8, 6, {"text": 4}))
    cube = lambda gamma, items, features: jnp.stack([items, items])
    root = lambda gamma, items, features: jnp.sqrt(0 * plain.views(gamma, items, features))
    gates = lambda router, pooled: jax.nn.sigmoid(jnp.stack([router["gate"], router["gate"]]) + 1)
    norm = lambda router, pooled: jax.nn.softmax(
        jnp.stack([router["gate"], jnp.linalg.norm(0 * pooled)])
    )
    return {
        "different name": plain._replace(names=("id", "id")),
        "init_shared: found": plain._replace(init_shared=lambda key: {"kernel": jnp.ones(2, int)}),
        "init_router: found": plain._replace(init_router=lambda key: {"gate": 0.0}),
        r"views: found float32 \(2, 60, 8\)": plain._replace(views=cube),
        "operators or of the ID table": plain._replace(views=root),
        "found .* expected 2 positive": plain._replace(route=gates),
        "route: its gradient": plain._replace(route=norm),
        "after_first": bilevel._replace(after_first=lambda router, x: jnp.ones(2) / 2),
        "set_logits": plain._replace(set_logits=lambda router, logits: {"gate": logits[0]}),
        "zero_content_views": plain._replace(zero_content_views=lambda gamma: gamma),
        "table_weight": bilevel._replace(table_weight=0.5),
    }


@pytest.mark.parametrize("piece", broken_fusions())
def test_a_broken_fusion_is_named(piece):
    with pytest.raises(fj.InputError, match=piece):
        fj.check_fusion(broken_fusions()[piece], own_dataset.make_dataset(8, 60), width=8)


def test_an_own_fusion_has_its_own_name_and_weights():
    """Whatever fusion the config names: it is another one."""
    dataset = own_dataset.make_dataset(8, 60)
    options = {"rounds": 1, "width": 8, "baselines": False}
    config = fj.Config.from_flat(fusion="none", **options)
    simulation = fj.make_simulation(config, dataset, fusion=own_fusion.gated_sum(8, 4))
    run, timing = fj.train(simulation)
    summary, users = summarise_run(simulation, run, timing)
    assert (summary["backbone"], summary["fusion"]) == ("fcf", "own")
    assert users["router_weights"].shape == (8, 2) and len(summary["router"]["mean"]) == 2
    simulation = fj.make_simulation(
        fj.Config.from_flat(**options), dataset, fusion=FUSIONS["none"](FusionOptions((), 8, 6, {}))
    )
    summary, users = summarise_run(simulation, run, timing)
    assert summary["router"] is None and "router_weights" not in users
    with pytest.raises(fj.InputError, match=r"^init=ease: your own fusion hides the rows"):
        fj.make_simulation(
            fj.Config.from_flat(init="ease", **options),
            dataset,
            fusion=own_fusion.gated_sum(8, 4),
        )


def broken_aggregators():
    plain = fj.make_aggregator(fj.Config.from_flat(aggregation="median"), 6)
    rule, clip = plain.reduce, fj.make_aggregator(fj.Config.from_flat(clip_norm=0.1), 6).uplink
    everyone = lambda uploads, alpha, responded: uploads.coordinatewise(lambda x: x.mean(axis=0))
    nan = lambda uploads, alpha, responded: uploads.total(alpha * jnp.nan)
    views = lambda uploads, alpha, responded: uploads.total(alpha).views
    return {
        "did not respond": plain._replace(reduce=rule._replace(weights=lambda w, p: w)),
        "exceeds": plain._replace(uplink=clip._replace(bound=lambda state: 0.01)),
        "changes its shapes": plain._replace(uplink=clip._replace(update=lambda s, c, p: c)),
        "depends on clients": plain._replace(reduce=rule._replace(combine=everyone)),
        "not finite": plain._replace(reduce=rule._replace(combine=nan)),
        "found the shapes": plain._replace(reduce=rule._replace(combine=views)),
        "needs WHOLE": plain._replace(reduce=rule._replace(needs=fj.Needs.SUM)),
    }


@pytest.mark.parametrize("piece", broken_aggregators())
def test_a_broken_aggregator_is_named(piece):
    with pytest.raises(fj.InputError, match=piece):
        fj.check_aggregator(broken_aggregators()[piece])


def broken_datasets():
    plain = own_dataset.make_dataset(8, 60)
    change = lambda **fields: dataclasses.replace(plain, **fields)
    part = lambda part, **fields: dataclasses.replace(part, **fields)
    first = plain.train.indptr[1]
    later = np.maximum(plain.train.indptr - first, 0)
    empty = part(plain.train, indptr=later, item=plain.train.item[first:])
    text = plain.features["text"]
    return {
        "Dataset.valid: found": change(valid=part(plain.valid, num_items=61)),
        "has no item": change(train=empty),
        "ascend within": change(train=part(plain.train, item=plain.train.item[::-1].copy())),
        "numbers in": change(train=part(plain.train, item=plain.train.item + 60)),
        "earlier part": change(test=plain.valid),
        "expected float32": change(features={"text": text.astype(float)}),
        "not finite": change(features={"text": text * np.nan}),
        "different ids": change(item_ids=np.zeros(60, "U1")),
    }


@pytest.mark.parametrize("piece", broken_datasets())
def test_a_broken_data_set_is_named(piece):
    with pytest.raises(fj.InputError, match=piece):
        fj.check_dataset(broken_datasets()[piece])


def test_the_loaders_keep_the_contract():
    fj.check_dataset(own_dataset.make_dataset())
    sizes = {"users": 50, "items": 60}
    fj.check_dataset(fj.load_dataset("synthetic", data_root="", synthetic=sizes))
