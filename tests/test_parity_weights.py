"""Weights from torch and back: every kind of layer, names and order, ties, rules, files."""

import argparse
import pathlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn.utils import prune

from dlwp_jax import nn, parity

# One pair of every kind of layer that holds arrays, and an input in torch's layout.
LAYERS = {
    "linear": (torch.nn.Linear(3, 5), lambda r: nn.Linear(3, 5, rngs=r), (2, 3)),
    "linear without bias": (
        torch.nn.Linear(3, 5, bias=False),
        lambda r: nn.Linear(3, 5, bias=False, rngs=r),
        (2, 3),
    ),
    "conv1d": (
        torch.nn.Conv1d(4, 6, 3, stride=2),
        lambda r: nn.Conv1d(4, 6, 3, stride=2, rngs=r),
        (2, 4, 9),
    ),
    "conv2d, groups": (
        torch.nn.Conv2d(4, 6, (2, 3), groups=2),
        lambda r: nn.Conv2d(4, 6, (2, 3), groups=2, rngs=r),
        (2, 4, 5, 6),
    ),
    "conv3d": (torch.nn.Conv3d(2, 3, 2), lambda r: nn.Conv3d(2, 3, 2, rngs=r), (1, 2, 3, 4, 5)),
    "transposed 1d": (
        torch.nn.ConvTranspose1d(3, 2, 3),
        lambda r: nn.ConvTranspose1d(3, 2, 3, rngs=r),
        (2, 3, 4),
    ),
    "transposed 2d, groups": (
        torch.nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1),
        lambda r: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1, rngs=r),
        (2, 4, 3, 4),
    ),
    "batch norm": (torch.nn.BatchNorm2d(3), lambda r: nn.BatchNorm2d(3), (4, 3, 2, 5)),
    "batch norm, flax's": (
        torch.nn.BatchNorm2d(3),
        lambda r: nnx.BatchNorm(3, momentum=0.9, use_fast_variance=False, rngs=r),
        (4, 3, 2, 5),
    ),
    "layer norm": (torch.nn.LayerNorm(5), lambda r: nn.LayerNorm(5), (4, 5)),
    "layer norm, C H W": (
        torch.nn.LayerNorm((2, 3, 4)),
        lambda r: nn.LayerNorm((3, 4, 2)),
        (2, 2, 3, 4),
    ),
    "group norm": (torch.nn.GroupNorm(2, 4), lambda r: nn.GroupNorm(2, 4), (2, 4, 3, 3)),
    "instance norm": (
        torch.nn.InstanceNorm2d(3, affine=True),
        lambda r: nn.InstanceNorm2d(3, affine=True),
        (2, 3, 4, 4),
    ),
    "prelu": (torch.nn.PReLU(3), lambda r: nn.PReLU(3), (2, 3, 4, 4)),
    "flax's linear": (torch.nn.Linear(3, 5), lambda r: nnx.Linear(3, 5, rngs=r), (2, 3)),
    "flax's conv": (
        torch.nn.Conv2d(2, 3, 3),
        lambda r: nnx.Conv(2, 3, (3, 3), padding="VALID", rngs=r),
        (1, 2, 5, 5),
    ),
    "flax's transposed": (
        torch.nn.ConvTranspose2d(2, 3, 2, stride=2),
        lambda r: nnx.ConvTranspose(2, 3, (2, 2), strides=(2, 2), padding="VALID", rngs=r),
        (1, 2, 3, 3),
    ),
}


def shaken(module):
    """Parameters and statistics away from their defaults, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand(value.shape, generator=generator))
    return module


@pytest.mark.parametrize("kind", LAYERS)
def test_each_kind_of_layer_computes_the_same_and_goes_back_bit_for_bit(kind):
    theirs, make, shape = LAYERS[kind]
    shaken(theirs)
    ours = make(nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    parity.compare(theirs.eval(), ours, x, loaded=loaded).raise_if_different()
    back = parity.to_torch(ours, loaded)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(back[name], value, rtol=0, atol=0)
    theirs.load_state_dict(back)


def test_embedding_takes_tokens_as_they_are():
    theirs, ours = torch.nn.Embedding(7, 4), nn.Embedding(7, 4, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    parity.compare(theirs, ours, np.array([[0, 3, 6]])).raise_if_different()
    assert parity.to_torch(ours, theirs)["weight"].equal(theirs.weight)


class TorchResidual(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = torch.nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(width)

    def forward(self, x):
        return x + torch.relu(self.norm(self.conv(x)))


class TorchNet(torch.nn.Module):
    """A model as people write them: blocks in a list, a loose parameter, a flatten."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = torch.nn.ModuleList(TorchResidual(4) for _ in range(2))
        self.gain = torch.nn.Parameter(torch.full((4, 1, 1), 1.5))
        self.head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4 * 2 * 3, 2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(torch.nn.functional.max_pool2d(x * self.gain, 2))


class Residual(nnx.Module):
    def __init__(self, width, *, rngs):
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False, rngs=rngs)
        self.norm = nn.BatchNorm2d(width)

    def __call__(self, x):
        return x + nnx.relu(self.norm(self.conv(x)))


class Net(nnx.Module):
    """The port, `flat` saying who flattens: torch's order, or the reshape that a Flax user
    writes.
    """

    def __init__(self, *, rngs, torch_order=True, names=("stem", "blocks", "gain", "head")):
        stem, blocks, gain, head = names
        setattr(self, stem, nn.Conv2d(3, 4, 3, padding=1, rngs=rngs))
        setattr(self, blocks, nn.ModuleList(Residual(4, rngs=rngs) for _ in range(2)))
        setattr(self, gain, nnx.Param(np.ones((4, 1, 1), np.float32)))
        flat = nn.Flatten() if torch_order else (lambda x: x.reshape(len(x), -1))
        setattr(self, head, nn.Sequential(flat, nn.Linear(4 * 2 * 3, 2, rngs=rngs)))
        self.names = names

    def __call__(self, x):
        stem, blocks, gain, head = (getattr(self, name) for name in self.names)
        x = stem(x)
        for block in blocks:
            x = block(x)
        return head(nn.MaxPool2d(2)(x * gain[...].reshape(-1)))


@pytest.fixture
def torch_net():
    torch.manual_seed(0)
    return shaken(TorchNet()).eval()


IMAGE = np.random.default_rng(1).standard_normal((2, 3, 4, 6)).astype(np.float32)


@pytest.mark.parametrize(
    "names",
    [
        ("stem", "blocks", "gain", "head"),
        ("entry", "blocks", "gain", "head"),
        ("a", "z", "g", "b"),
    ],
)
def test_nested_models_fit_by_name_or_by_order(torch_net, names):
    ours = Net(rngs=nnx.Rngs(0), names=names)
    rules = [] if names[2] == "gain" else [("gain", "g")]
    loaded = parity.load_torch(ours, torch_net, rules=rules, probe=IMAGE)
    how = {entry.found_by for entry in loaded.map.entries}
    assert how == (
        {"name"}
        if names[0] == "stem"
        else {"name", "order"}
        if names[0] == "entry"
        else {"probe", "order", "rule"}
    )
    parity.compare(torch_net, ours, IMAGE, loaded=loaded).raise_if_different()
    parity.compare(torch_net, ours, IMAGE, loaded=loaded, train=True).raise_if_different()


def test_the_report_prints_the_map(torch_net):
    text = str(parity.load_torch(Net(rngs=nnx.Rngs(0)), torch_net))
    assert re.search(
        r"stem\.weight +\[4, 3, 3, 3\] +stem\.kernel +\[3, 3, 3, 4\] +kernel +name", text
    )
    assert re.search(
        r"blocks\.1\.norm\.running_var +\[4\] +blocks\.1\.norm\.var +\[4\] +as it is +name",
        text,
    )
    assert "head.1.weight reads 24 = 4 x 6 values" in text


def test_a_probe_finds_and_turns_the_flatten(torch_net):
    ours = Net(rngs=nnx.Rngs(0), torch_order=False)
    parity.load_torch(ours, torch_net)
    assert not parity.compare(
        torch_net, ours, IMAGE
    ).ok  # the test can fail: columns in the wrong order
    loaded = parity.load_torch(ours, torch_net, probe=IMAGE)
    assert "rows turned from 4 2 3" in str(loaded)
    parity.compare(
        torch_net, ours, IMAGE
    ).raise_if_different()  # recognised from the weights alone
    assert parity.to_torch(ours, loaded)["head.1.weight"].equal(torch_net.head[1].weight)
    parity.load_torch(
        ours,
        torch_net.state_dict(),
        rules=[(r"(head\.1)\.weight", r"\1", parity.flatten_rows(4, 2, 3))],
    )
    parity.compare(torch_net, ours, IMAGE).raise_if_different()


def test_a_probe_leaves_torch_order_alone(torch_net):
    loaded = parity.load_torch(Net(rngs=nnx.Rngs(0)), torch_net, probe=IMAGE)
    assert "rows turned" not in str(loaded)


class FlatNormTorch(torch.nn.Module):
    """A norm between the flatten and its Linear; another one, of as many features, behind
    it.
    """

    def __init__(self, norm):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), norm(24)
        self.hidden, self.after, self.head = (
            torch.nn.Linear(24, 24),
            torch.nn.BatchNorm1d(24),
            torch.nn.Linear(24, 2),
        )

    def forward(self, x):
        x = torch.relu(self.norm(torch.relu(self.conv(x)).flatten(1)))
        return self.head(torch.relu(self.after(self.hidden(x))))


class FlatNorm(nnx.Module):
    def __init__(self, norm, *, rngs):
        self.conv, self.norm = nn.Conv2d(3, 4, 3, rngs=rngs), norm(24)
        self.hidden, self.after = nn.Linear(24, 24, rngs=rngs), nn.BatchNorm1d(24)
        self.head = nn.Linear(24, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(nnx.relu(self.conv(x)).reshape(len(x), -1)))  # H W C order
        return self.head(nnx.relu(self.after(self.hidden(x))))


@pytest.mark.parametrize("norm", ["BatchNorm1d", "LayerNorm", "PReLU"])
@pytest.mark.parametrize("trained", [True, False])
def test_what_has_one_number_for_each_feature_turns_with_the_linear_behind_the_flatten(
    norm, trained
):
    torch.manual_seed(0)
    theirs, ours = (
        FlatNormTorch(getattr(torch.nn, norm)),
        FlatNorm(getattr(nn, norm), rngs=nnx.Rngs(0)),
    )
    x = np.random.default_rng(0).standard_normal((5, 3, 4, 5)).astype(np.float32)
    if trained:
        shaken(theirs)
    loaded = parity.load_torch(ours, theirs.eval(), probe=x)
    turned = {
        ".".join(entry.path)
        for entry in loaded.map.entries
        if "rows turned" in entry.transform.name
    }
    own = {f"norm.{path[-1]}" for path, _ in nnx.to_flat_state(nnx.state(ours.norm))} - {
        "norm.num_batches_tracked"
    }
    assert turned == own | {
        "hidden.kernel"
    }  # an untrained norm too: its gradients and moments have an order
    parity.compare(theirs, ours, x, loaded=loaded, train=True).raise_if_different()
    parity.compare(theirs, ours, x).raise_if_different()
    back = parity.to_torch(ours, loaded)
    assert all(back[name].equal(value) for name, value in theirs.state_dict().items())


def test_what_was_loaded_is_a_copy_that_torch_s_training_does_not_touch():
    theirs, ours = torch.nn.Linear(16, 64), nn.Linear(16, 64, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    before = np.array(ours.bias[...])
    with torch.no_grad():
        theirs.bias += 1
    np.testing.assert_array_equal(ours.bias[...], before)


@pytest.mark.parametrize(
    "wrapper",
    [torch.nn.DataParallel, lambda module: torch.nn.ModuleDict({"_orig_mod": module})],
)
def test_prefixes_of_wrappers_are_taken_off(wrapper):
    theirs, ours = torch.nn.Linear(2, 3), nn.Linear(2, 3, rngs=nnx.Rngs(0))
    parity.load_torch(ours, wrapper(theirs).state_dict())
    np.testing.assert_array_equal(ours.kernel[...], theirs.weight.detach().T)


class Tied(nnx.Module):
    def __init__(self, *, rngs, tied):
        self.first = nn.Linear(3, 3, rngs=rngs)
        self.again = self.first if tied else nn.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.again(nnx.tanh(self.first(x)))


def torch_tied(tied=True):
    first = torch.nn.Linear(3, 3)
    names = {
        "first": first,
        "tanh": torch.nn.Tanh(),
        "again": first if tied else torch.nn.Linear(3, 3),
    }
    model = torch.nn.Sequential()
    for name, layer in names.items():
        model.add_module(name, layer)
    return model


def test_tied_weights_stay_tied(tmp_path):
    theirs, ours = torch_tied(), Tied(rngs=nnx.Rngs(0), tied=True)
    loaded = parity.load_torch(ours, theirs)
    parity.compare(theirs, ours, np.ones((2, 3), np.float32)).raise_if_different()
    assert set(parity.to_torch(ours, loaded)) == set(theirs.state_dict())
    assert set(parity.to_torch(ours)) == set(theirs.state_dict())
    torch.save(theirs.state_dict(), tmp_path / "tied.pt")
    assert "first.weight = again.weight" in str(parity.load_torch(ours, tmp_path / "tied.pt"))


PREFIXES = ["model.", "net.", "_orig_mod.module.", "module.model.", "ema.model._orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_any_wrapper_is_taken_off_and_layers_go_by_name(prefix):
    theirs = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
    rngs = nnx.Rngs(0)
    ours = nn.Sequential(b=nn.Linear(3, 3, rngs=rngs), a=nn.Linear(3, 3, rngs=rngs))
    state = {prefix + name: value for name, value in theirs.state_dict().items()}
    loaded = parity.load_torch(ours, {"state_dict": state, "epoch": 3})
    np.testing.assert_array_equal(ours.a.kernel[...], theirs["a"].weight.detach().T)
    np.testing.assert_array_equal(ours.b.kernel[...], theirs["b"].weight.detach().T)
    assert set(parity.to_torch(ours, loaded)) == set(theirs.state_dict())


def test_averaged_weights_are_loaded_from_their_module_and_its_state_dict():
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 2))
    averaged = torch.optim.swa_utils.AveragedModel(theirs)
    for source in (averaged, {"model_ema": averaged.state_dict(), "epoch": 1}):
        ours = nn.Sequential(nn.Linear(3, 2, rngs=nnx.Rngs(0)))
        parity.load_torch(ours, source)
        np.testing.assert_array_equal(ours[0].kernel[...], theirs[0].weight.detach().T)


class Chain(torch.nn.Module):
    """Two layers of one shape, used in another order than they are made in."""

    def __init__(self):
        super().__init__()
        self.last, self.first = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def test_layers_that_could_be_exchanged_are_refused_unless_a_probe_or_a_rule_decides():
    theirs, rngs = Chain(), nnx.Rngs(0)
    ours = nn.Sequential(nn.Linear(3, 3, rngs=rngs), nn.Tanh(), nn.Linear(3, 3, rngs=rngs))
    with pytest.raises(ValueError, match="have the same shapes, and their names do not agree"):
        parity.load_torch(ours, theirs)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    loaded = parity.load_torch(ours, theirs, probe=x)
    np.testing.assert_array_equal(ours[0].kernel[...], theirs.first.weight.detach().T)
    assert "first -> 0" in str(loaded)
    assert "matched by the probe's outputs, not by name" in str(loaded)
    rules = [(r"first\..*", "0"), (r"last\..*", "2")]
    parity.load_torch(ours, theirs, rules=rules)
    np.testing.assert_array_equal(ours[2].kernel[...], theirs.last.weight.detach().T)
    wrong = nn.Sequential(ours[0], nn.ReLU(), ours[2])
    with pytest.raises(ValueError, match="no order of them gives torch's outputs"):
        parity.load_torch(wrong, theirs, probe=x)


@pytest.mark.parametrize(
    "beside",
    [
        np.float64(0.9),
        np.int32(3),
        np.arange(3.0),
        np.array(["loss"]),
        np.datetime64("2026-01-01"),
        argparse.Namespace(lr=0.1),
        Path("a"),
    ],
)
def test_objects_beside_the_weights_are_named_with_the_way_to_let_them_in(tmp_path, beside):
    theirs, ours = torch.nn.Linear(3, 2), nn.Linear(3, 2, rngs=nnx.Rngs(0))
    torch.save({"state_dict": theirs.state_dict(), "beside": beside}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="if you trust the file, read it under") as refused:
        parity.load_torch(ours, tmp_path / "last.pt")
    named = re.search(r"safe_globals\(\[(.*)\]\)", str(refused.value))[1]
    trusted = eval(f"[{named}]", {"numpy": np, "argparse": argparse, "pathlib": pathlib})
    with torch.serialization.safe_globals(trusted):
        parity.load_torch(ours, tmp_path / "last.pt")
    np.testing.assert_array_equal(ours.kernel[...], theirs.weight.detach().T)


def test_different_ties_are_refused():
    with pytest.raises(
        ValueError,
        match="torch ties first and again; in the JAX model first and again are apart",
    ):
        parity.load_torch(Tied(rngs=nnx.Rngs(0), tied=False), torch_tied())
    with pytest.raises(
        ValueError,
        match=r"again\.kernel is one array .* first\.weight and again\.weight differ",
    ):
        parity.load_torch(Tied(rngs=nnx.Rngs(0), tied=True), torch_tied(tied=False))


def test_strict_names_what_is_left_over_on_either_side_and_writes_nothing():
    ours = nn.Sequential(a=nn.Linear(3, 3, rngs=nnx.Rngs(0)))
    theirs = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.BatchNorm1d(3)})
    before = np.asarray(ours.a.kernel[...])
    with pytest.raises(
        ValueError,
        match=r"Left over in torch: b\.weight, b\.bias, b\.running_mean, b\.running_var\.",
    ):
        parity.load_torch(ours, theirs)
    np.testing.assert_array_equal(ours.a.kernel[...], before)
    wider = nn.Sequential(a=nn.Linear(3, 3, rngs=nnx.Rngs(0)), c=nn.PReLU())
    with pytest.raises(ValueError, match=r"Not filled in the JAX model: c\.weight"):
        parity.load_torch(wider, torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3)}))
    report = parity.load_torch(ours, theirs, strict=False)
    assert report.map.unexpected == ("b.weight", "b.bias", "b.running_mean", "b.running_var")
    np.testing.assert_array_equal(ours.a.kernel[...], theirs["a"].weight.detach().T)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(
        ValueError,
        match=r"a\.weight \(4, 3\) becomes \(3, 4\), but a\.kernel has shape \(3, 5\)",
    ):
        parity.load_torch(
            nn.Sequential(a=nn.Linear(3, 5, rngs=nnx.Rngs(0))),
            torch.nn.ModuleDict({"a": torch.nn.Linear(3, 4)}),
        )


class Own(nnx.Module):
    """Arrays that belong to no layer, under names that layers have too."""

    def __init__(self):
        self.kernel, self.scale = (
            nnx.Param(np.zeros((2, 3), np.float32)),
            nnx.Param(np.zeros(3, np.float32)),
        )
        self.mean, self.position = (
            nnx.Variable(np.zeros((1, 4, 5, 3), np.float32)) for _ in range(2)
        )


def test_loose_arrays_keep_their_names_and_turn_to_channels_last():
    image = torch.rand(1, 3, 4, 5)
    theirs = {
        "weight": torch.rand(3, 2),
        "scale": torch.rand(3),
        "mean": image,
        "position": 2 * image,
    }
    ours = Own()
    loaded = parity.load_torch(ours, theirs)
    np.testing.assert_array_equal(ours.scale[...], theirs["scale"])
    np.testing.assert_array_equal(ours.position[...], 2 * image.permute(0, 2, 3, 1))
    for back in (parity.to_torch(ours, loaded), parity.to_torch(ours, theirs)):
        assert {
            name: value.equal(theirs[name]) for name, value in back.items()
        } == dict.fromkeys(theirs, True)


def test_a_scale_beside_a_kernel_is_not_taken_for_filled():
    with pytest.raises(ValueError, match="Not filled in the JAX model: scale, mean, position"):
        parity.load_torch(Own(), {"weight": torch.rand(3, 2)})


def test_names_and_order_that_contradict_each_other_are_refused():
    rngs = nnx.Rngs(0)
    ours = nn.Sequential(conv0=nn.Linear(3, 3, rngs=rngs), conv1=nn.Linear(3, 3, rngs=rngs))
    theirs = torch.nn.ModuleDict(
        {"conv1": torch.nn.Linear(3, 3), "conv2": torch.nn.Linear(3, 3)}
    )
    with pytest.raises(
        ValueError,
        match="conv1 is called conv1 in the JAX model too, but stands elsewhere in the order",
    ):
        parity.load_torch(ours, theirs)
    parity.load_torch(
        ours, theirs, rules=[(r"conv1\.(.*)", "conv0"), (r"conv2\.(.*)", "conv1")]
    )
    np.testing.assert_array_equal(ours.conv1.kernel[...], theirs["conv2"].weight.detach().T)


def test_rules_move_transform_and_drop():
    ours = nn.Sequential(a=nn.Linear(3, 2, rngs=nnx.Rngs(0)))
    theirs = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2), "junk": torch.zeros(9)}
    rules = [("w", "a.kernel", lambda w: 10 * w.T), ("b", "a.bias"), ("jun.", None)]
    loaded = parity.load_torch(ours, theirs, rules=rules)
    np.testing.assert_array_equal(ours.a.kernel[...], 10 * np.arange(6.0).reshape(2, 3).T)
    assert loaded.map.dropped == ("junk",)
    with pytest.raises(ValueError, match="no way back"):
        parity.to_torch(ours, loaded)
    with pytest.raises(ValueError, match="fits no entry"):
        parity.load_torch(ours, theirs, rules=[("nothing", "a.kernel")])
    with pytest.raises(
        ValueError, match=r"which the JAX model has not; it has: a\.kernel, a\.bias"
    ):
        parity.load_torch(ours, theirs, rules=[("w", "z.kernel")])
    with pytest.raises(TypeError, match="transform is 'T'"):
        parity.load_torch(ours, theirs, rules=[("w", "a.kernel", "T")])


def test_rules_place_the_arrays_of_a_recurrent_layer():
    theirs, rngs = torch.nn.ModuleDict({"rnn": torch.nn.RNN(3, 2)}), nnx.Rngs(0)
    ours = nn.Sequential(ih=nn.Linear(3, 2, rngs=rngs), hh=nn.Linear(2, 2, rngs=rngs))
    parity.load_torch(ours, theirs, rules=[(r"rnn\.(weight|bias)_(ih|hh)_l0", r"\2")])
    np.testing.assert_array_equal(ours.hh.kernel[...], theirs["rnn"].weight_hh_l0.detach().T)
    np.testing.assert_array_equal(ours.ih.bias[...], theirs["rnn"].bias_ih_l0.detach())


@pytest.mark.parametrize(
    "layer", [torch.nn.LSTM(2, 2), torch.nn.GRUCell(2, 2), torch.nn.MultiheadAttention(2, 1)]
)
def test_layers_that_the_model_has_not_are_named(layer):
    theirs, ours = torch.nn.ModuleDict({"encoder": layer}), nn.Linear(2, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"encoder"):
        parity.load_torch(ours, theirs)
    with pytest.raises(ValueError, match=r"encoder"):
        parity.load_torch(ours, theirs.state_dict())


# --- files


ODD = {
    "lazy": (lambda: torch.nn.LazyLinear(2), ValueError, "weight has no values yet"),
    "meta": (lambda: torch.nn.Linear(3, 2, device="meta"), ValueError, "weight has no values"),
    "sparse": (lambda: {"weight": torch.eye(3).to_sparse()}, ValueError, "weight is sparse"),
    "weight norm": (
        lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2)),
        NotImplementedError,
        "is a parametrization",
    ),
    "pruned": (
        lambda: prune.l1_unstructured(torch.nn.Linear(3, 2), "weight", amount=1),
        NotImplementedError,
        "weight_orig is part of a weight that hooks put together",
    ),
}


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("kind", ODD)
def test_odd_weights_are_refused_in_a_sentence(kind):
    source, error, message = ODD[kind]
    with pytest.raises(error, match=message):
        parity.load_torch(nn.Linear(3, 2, rngs=nnx.Rngs(0)), source())


def test_a_wrapped_model_is_probed_and_compared_like_the_model_itself(torch_net):
    wrapped, ours = torch.nn.DataParallel(torch_net), Net(rngs=nnx.Rngs(0), torch_order=False)
    loaded = parity.load_torch(ours, wrapped, probe=IMAGE)
    report = parity.compare(wrapped, ours, IMAGE, loaded=loaded).raise_if_different()
    gradients = [row.leaf for row in report.rows if row.stage == "gradient"]
    assert (
        "head.1.kernel" in gradients
    )  # under torch's own names the wrapper's gradients would be missed


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar", ".state", ".safetensors"])
def test_files(tmp_path, suffix):
    theirs, ours = torch.nn.Linear(2, 3), nn.Linear(2, 3, rngs=nnx.Rngs(0))
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(theirs.state_dict(), path)
    else:
        torch.save(
            {"epoch": 3, "model_state": theirs.state_dict(), "optimizer_state": {"state": {}}},
            path,
        )
    parity.load_torch(ours, path)
    np.testing.assert_array_equal(ours.kernel[...], theirs.weight.detach().T)


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("the pickle ran",))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused_by_name(tmp_path, how):
    path = tmp_path / "evil.pt"
    if how == "torch":
        torch.save({"w": Malicious()}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(ValueError, match=r"evil\.pt: refused"):
        parity.load_torch(nn.Linear(2, 3, rngs=nnx.Rngs(0)), path)


def test_whole_pickled_modules_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"[sS]ave model") as refused:
        parity.read(tmp_path / "module.pt")
    assert "\x1b" not in str(refused.value)  # torch's own sentence is partly in bold


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 200])
def test_damaged_files_are_refused_by_name(tmp_path, suffix, kept):
    from safetensors.torch import save_file

    path = tmp_path / f"short{suffix}"
    state = torch.nn.Linear(20, 30).state_dict()
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"short\{suffix}"):
        parity.read(path)


def test_other_sources_are_refused(tmp_path):
    ours = nn.Linear(2, 3, rngs=nnx.Rngs(0))
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    with pytest.raises(ValueError, match=r"weights\.h5: (refused|damaged)"):
        parity.load_torch(ours, tmp_path / "weights.h5")
    with pytest.raises(FileNotFoundError, match="no such file"):
        parity.load_torch(ours, tmp_path / "none.pt")
    with pytest.raises(TypeError, match="this is a list"):
        parity.load_torch(ours, [1, 2])
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(FileNotFoundError, match="this is a folder; name a file in it"):
        parity.load_torch(ours, tmp_path / "folder.pt")
    with pytest.raises(ValueError, match="these entries are no tensors: epoch"):
        parity.load_torch(ours, {"weight": torch.ones(3, 2), "bias": torch.ones(3), "epoch": 3})
    with pytest.raises(
        ValueError, match=r"has several: \['a', 'b'\]; choose one, as .*\['a'\]"
    ):
        parity.load_torch(ours, {"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}})


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.full((2, 3), 1e300, dtype=torch.float64), "too large"),
        (torch.ones(2, 3, dtype=torch.int8), "holds int8"),
    ],
)
def test_a_cast_that_loses_values_is_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        parity.load_torch(
            nn.Linear(3, 2, rngs=nnx.Rngs(0)), {"weight": weight, "bias": torch.zeros(2)}
        )
