"""Chapters 6 to 8's experiments: what they state is true, torch agrees, and they run as a
person runs them.
"""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dlwp_jax import nn, parity
from dlwp_jax.data import cifar
from dlwp_jax.train import make_learner
from experiments import (
    ch06_activations,
    ch06_networks,
    ch07_birds_airplanes,
    ch08_convolution,
    ch08_variations,
)
from experiments import pictures as shown
from experiments.models import count, difference, parameters
from tests.test_data_sources import batch, python2_pickle

HISTORY = {"epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy"}


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG")


# Chapter 6


def test_the_three_ways_are_one_function_and_torch_trains_it_to_the_same_losses():
    models = {way: make(8, rngs=nnx.Rngs(3)) for way, make in ch06_networks.WAYS.items()}
    train, val = ch06_networks.readings()
    theirs = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    theirs.load_state_dict(parity.to_torch(models["positional Sequential"]))
    x, y, x_val, y_val = (
        torch.tensor(np.asarray(side[k])) for side in (train, val) for k in ("t_u", "t_c")
    )
    sgd, losses = torch.optim.SGD(theirs.parameters(), lr=1e-3), []
    for _ in range(300):
        loss = torch.nn.functional.mse_loss(theirs(x), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append((loss.item(), torch.nn.functional.mse_loss(theirs(x_val), y_val).item()))
    first = parameters(models["positional Sequential"])
    for model in models.values():
        assert difference(parameters(model), first) == 0
    # The other two ways train to the same bits, as the experiment says below.
    trained = ch06_networks.train_net(models["module class"], 1e-3, 300)
    ours = np.stack([trained.history["train/loss"], trained.history["val/loss"]], axis=1)
    # Float32 sums in another order, forgotten by descent.
    np.testing.assert_allclose(ours, losses, rtol=2e-5)
    assert difference(parameters(ch06_networks.positional(8, rngs=nnx.Rngs(4))), first) > 0.01


def test_the_book_holds_back_the_coldest_reading_and_the_second_warmest():
    train, val = ch06_networks.readings()
    assert val["t_c"].ravel().tolist() == [-4, 21]
    assert train["t_u"].shape == (9, 1)


def test_ch06_networks_as_a_person_runs_it(tmp_path, capsys):
    ch06_networks.main(ch06_networks.Config(epochs=1000, out=tmp_path))
    told = capsys.readouterr().out
    for way in ("named Sequential", "module class"):
        assert (
            f"{way:18s}weights 0  outputs 0  gradients 0  losses 0  trained weights 0\n" in told
        )
    assert told.count("25 parameters") == 3
    assert "hidden_linear.kernel    (1, 8)  (8, 1)" in told
    (epoch,) = [
        line.split()
        for line in told.splitlines()
        if line.startswith("epoch 1000") and "6.6642" in line
    ]
    assert float(epoch[2]) < 10  # the book's 6.66 within what other random weights make of it
    assert is_picture(tmp_path / "ch06_networks" / "fit.png")
    assert len((tmp_path / "ch06_networks" / "history.jsonl").read_text().splitlines()) == 1000


def test_where_activations_saturate_is_where_calculus_says():
    x, flat = jnp.arange(-1000, 1001) / 100, 0.005
    tanh = math.acosh(flat**-0.5)  # 1 - tanh^2 = 1 / cosh^2 = flat
    sigmoid = 2 * math.acosh(0.5 * flat**-0.5)  # s (1 - s) = 1 / (4 cosh^2(x / 2)) = flat
    ends = {
        "tanh": [(-10, -tanh), (tanh, 10)],
        "hardtanh": [(-10, -1), (1, 10)],
        "sigmoid": [(-10, -sigmoid), (sigmoid, 10)],
        "softplus": [(-10, math.log(flat / (1 - flat)))],
        "relu": [(-10, 0)],
        "leaky_relu": [],
    }
    for name, function in ch06_activations.ACTIVATIONS.items():
        found = ch06_activations.saturated(function, x, flat)
        assert len(found) == len(ends[name]), name
        assert not found or np.allclose(found, ends[name], atol=0.01), name
    assert ch06_activations.saturated(nn.leaky_relu, x, 0.02) == [(-10, 0)]


@pytest.mark.parametrize("flat", [-1.0, 0.0, 5.0, math.nan])
def test_a_slope_at_which_nothing_or_everything_is_flat_is_refused(flat):
    with pytest.raises(ValueError, match=f"--flat must be between 0 and 1; got {flat:g}"):
        ch06_activations.Config(flat=flat)


def test_ch06_activations_as_a_person_runs_it(tmp_path, capsys):
    ch06_activations.main(ch06_activations.Config(out=tmp_path))
    told = capsys.readouterr().out
    assert "A + B + C + D is a network 1-4-1: they differ by 0.0e+00" in told
    assert (
        "nn.Linear(1, 8) of x (11,) -> RuntimeError: Linear takes [... 1]; the input has shape "
        "(11,)." in told
    )
    assert told.count("TypeError") == 2
    assert "-> (11, 11)" in told
    for name in ("activations.png", "composition.png"):
        assert is_picture(tmp_path / "ch06_activations" / name)


# Pictures


class Kept:
    """Takes the figures that a run directory would write."""

    def figure(self, figure, name):
        self.titles = [ax.get_title() for ax in figure.axes]


def test_digits_fit_the_books_networks():
    pictures = shown.load(shown.Config())
    assert pictures.train["image"].shape == (287, 32, 32, 3)
    assert sorted(set(pictures.val["label"].tolist())) == [0, 1]
    blocks = pictures.train["image"].reshape(287, 8, 4, 8, 4, 3)
    assert (
        blocks == blocks[:, :, :1, :, :1, :1]
    ).all()  # every pixel is 4 x 4 pixels of three equal colours
    assert abs(pictures.train["image"].mean()) < 1e-5
    ten = shown.load(shown.Config(classes="ten"))
    assert [len(side["label"]) for side in ten[:2]] == [1437, 360]
    assert np.bincount(ten.val["label"], minlength=10).min() > 30


def test_the_surest_mistakes_come_first_and_none_makes_no_figure(capsys):
    pictures = shown.load(shown.Config())
    label = pictures.val["label"]
    right = np.eye(2)[label] * 0.8 + 0.1
    assert shown.show_wrong(pictures, right, None) is None  # would fail if it drew
    wrong, mistakes = (
        right.copy(),
        {5: 0.99, 60: 0.7, 3: 0.6},
    )  # row: probability of the other class
    for i, p in mistakes.items():
        wrong[i, 1 - label[i]], wrong[i, label[i]] = p, 1 - p
    kept = Kept()
    shown.show_wrong(pictures, wrong, kept)
    names = pictures.names
    told = [f"{names[1 - label[i]]} {p:.3f}\nis {names[label[i]]}" for i, p in mistakes.items()]
    assert kept.titles[:3] == told
    assert capsys.readouterr().out.splitlines()[1:] == ["0 of 70 wrong", "3 of 70 wrong"]


def test_medians_are_of_ten_epochs_or_of_all_that_there_are():
    accuracy = np.array([0.0, 0.5, 0.7, 0.6])
    for epochs, rows in ((4, slice(0, 4)), (12, [0, 0, 0, 0, 0, 1, 1, 3, 2, 2, 2, 2])):
        train = accuracy[rows]
        history = {"train/accuracy": train, "val/accuracy": train / 2}
        history |= {"train/loss": 1 - train, "val/loss": 1 - train / 2}
        told = shown.Trained(None, None, history, None, 0.9, 0.8).told((0.99, 0.82))
        median = np.median(train[-10:])
        assert (
            f"median of the last {min(epochs, 10)} epochs: "
            f"training {median:.4f}, validation {median / 2:.4f}, gap {median / 2:.4f}" in told
        )
        assert "at the end: training 0.9000, validation 0.8000, gap 0.1000" in told
        assert "the book, after 100 epochs: training 0.9900, validation 0.8200" in told


@pytest.mark.slow
def test_3_and_8_are_the_digits_that_are_hardest_to_tell_apart():
    (pair, accuracy), (_, second) = shown.hardest_pairs()[:2]
    assert pair == shown.HARD_PAIR
    assert accuracy < second


def test_cifar10_as_the_book_loads_it(tmp_path, monkeypatch):
    """The files are made up; tests/test_data_book.py reads the real ones."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batches = [batch(60, seed) for seed in range(6)]
    for name, given in zip((*cifar.TRAIN, *cifar.TEST), batches, strict=True):
        (folder / name).write_bytes(python2_pickle(*given))
    monkeypatch.setenv("DLWP_DATA", str(tmp_path))
    pictures = shown.load(shown.Config(data="cifar10"))
    assert pictures.names == ("airplane", "bird")
    for side, files in ((pictures.train, batches[:5]), (pictures.val, batches[5:])):
        images, labels = (np.concatenate(parts) for parts in zip(*files, strict=True))
        chosen = np.isin(labels, (0, 2))  # airplanes and birds
        np.testing.assert_array_equal(side["label"], labels[chosen] // 2)
        pixels = images[chosen].transpose(0, 2, 3, 1) / 255
        scaled = (pixels - [0.4915, 0.4823, 0.4468]) / [0.2470, 0.2435, 0.2616]
        np.testing.assert_allclose(side["image"], scaled, rtol=0, atol=1e-5)
        assert side["image"].dtype == np.float32


# Chapter 7


@pytest.mark.slow
def test_losses_and_parameter_counts_are_the_books(capsys):
    ch07_birds_airplanes.show_losses()
    told = capsys.readouterr().out
    assert "of 15 figures 15 equal the book's in every digit" in told
    assert "[-inf   0.]" in told
    slopes = [float(line.split()[-1]) for line in told.splitlines() if line.startswith("slope")]
    p = 1 / (1 + math.exp(10.0))  # the softmax of the right class
    np.testing.assert_allclose(slopes, [p - 1, -4 * p * (1 - p) ** 2], rtol=1e-2)


def test_a_fully_connected_net_is_torchs():
    ours = ch07_birds_airplanes.fully_connected("16-8", 2, rngs=nnx.Rngs(0))
    layers = [
        torch.nn.Flatten(),
        torch.nn.Linear(3072, 16),
        torch.nn.Tanh(),
        torch.nn.Linear(16, 8),
    ]
    theirs = torch.nn.Sequential(*layers, torch.nn.Tanh(), torch.nn.Linear(8, 2))
    x = np.random.default_rng(0).normal(size=(5, 32, 32, 3)).astype(np.float32)
    parity.load_torch(ours, theirs.state_dict())
    with torch.no_grad():
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(ours(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_no_epochs_are_refused_before_anything_is_trained():
    with pytest.raises(
        ValueError, match="--epochs 0, --single-epochs 10: each must be at least 1"
    ):
        ch07_birds_airplanes.Config(epochs=0)
    with pytest.raises(ValueError, match="--single-epochs -3"):
        ch07_birds_airplanes.Config(single_epochs=-3)


@pytest.mark.slow
def test_ch07_as_a_person_runs_it(tmp_path, monkeypatch, capsys):
    nets = {"512": ch07_birds_airplanes.NETS["512"], "128-64": None}  # the deep one is smaller
    monkeypatch.setattr(ch07_birds_airplanes, "NETS", nets)
    config = ch07_birds_airplanes.Config(classes="ten", epochs=8, single_epochs=1, out=tmp_path)
    ch07_birds_airplanes.main(config)
    told = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("accuracy at the end")
    ]
    numbers = [
        [float(word.strip(",")) for word in line.split() if word[0].isdigit()] for line in told
    ]
    assert len(numbers) == 3
    for train, val, gap in numbers:
        assert train > val > 0.8  # chance is 0.1
        assert abs(train - val - gap) < 2e-4
    here = tmp_path / "ch07_birds_airplanes"
    assert all(
        is_picture(here / name) for name in ("losses.png", "overfitting.png", "wrong.png")
    )
    lines = (here / "history_3072-512-10.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert len((here / "history_3072-512-10_single.jsonl").read_text().splitlines()) == 1
    assert set(json.loads(lines[0])) == HISTORY


# Chapter 8


def test_kernels_are_torchs_convolutions():
    picture = np.random.default_rng(0).random((9, 12), np.float32)
    for kernel in ch08_convolution.KERNELS.values():
        ours = nn.conv(picture[None, :, :, None], kernel[:, :, None, None], padding=1)[
            0, :, :, 0
        ]
        theirs = torch.nn.functional.conv2d(
            torch.tensor(picture)[None, None], torch.tensor(kernel)[None, None], padding=1
        )
        np.testing.assert_allclose(ours, theirs[0, 0], atol=1e-6)
    assert abs(ch08_convolution.KERNELS["blur"].sum() - 1) < 1e-6
    assert ch08_convolution.KERNELS["edge"].sum() == 0


def test_the_conv_net_in_both_ways_and_the_books_counts(capsys):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 32, 32, 3)), jnp.float32)
    ch08_convolution.show_networks(x)
    told = capsys.readouterr().out
    assert "of 3 figures 3 equal the book's in every digit" in told
    assert "weights differ by 0," in told
    assert "their outputs for 3 pictures by 0\n" in told
    assert count(nn.ConvNet(32, rngs=nnx.Rngs(0))) == 38386  # the book's, of the wider net


def test_saved_and_loaded_the_network_is_the_same(tmp_path):
    net, other = (ch08_convolution.sequential(10, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    assert difference(parameters(net), parameters(other)) > 0.01
    _, state = make_learner(net, shown.loss_fn, optax.sgd(1e-2), key=jax.random.key(0))
    loaded = ch08_convolution.through_a_file(state, 10, tmp_path / "net.npz", seed=1)
    assert difference(parameters(net), parameters(loaded)) == 0
    with np.load(tmp_path / "net.npz") as arrays:
        assert sum(array.size for array in arrays.values()) == count(net)


@pytest.mark.slow
def test_ch08_convolution_as_a_person_runs_it(tmp_path, capsys):
    ch08_convolution.main(ch08_convolution.Config(epochs=20, out=tmp_path))
    told = capsys.readouterr().out
    (accuracy,) = [
        line.split()
        for line in told.splitlines()
        if line.startswith("accuracy at the end: training")
    ]
    assert float(accuracy[5].strip(",")) > 0.9  # chance is 0.5
    assert float(accuracy[7].strip(",")) > 0.75
    assert "the outputs differ by 0\n" in told
    here = tmp_path / "ch08_convolution"
    assert all(is_picture(here / name) for name in ("kernels.png", "training.png", "wrong.png"))
    assert set(json.loads((here / "history.jsonl").read_text().splitlines()[0])) == HISTORY


def test_a_penalty_is_added_to_the_loss_and_not_to_the_accuracy():
    pictures = shown.load(shown.Config())
    batch = {name: jnp.asarray(leaf[:8]) for name, leaf in pictures.train.items()}
    for name, size in (("l2_reg", jnp.square), ("l1_reg", jnp.abs)):
        variation = ch08_variations.VARIATIONS[name]
        net = variation.make(8, rngs=nnx.Rngs(0))
        plain, metrics = shown.loss_fn(net, batch)
        loss, same = ch08_variations.loss_with(variation.penalty)(net, batch)
        norm = sum(float(size(leaf).sum()) for leaf in parameters(net).values())
        assert float(loss - plain) == pytest.approx(1e-3 * norm, rel=1e-3)
        assert same == metrics


def test_a_net_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match="--nets has resnet; there are baseline, width, "):
        ch08_variations.Config(nets=("baseline", "resnet"))


@pytest.mark.slow
def test_ch08_variations_as_a_person_runs_it_and_ends_it_early(tmp_path, monkeypatch, capsys):
    fit = shown.train.fit
    monkeypatch.setattr(
        shown.train, "fit", lambda *args, **options: fit(*args, **options | {"epochs": 6})
    )
    nets = ("baseline", "res_deep_10")
    ch08_variations.main(ch08_variations.Config(nets=nets, epochs=7, channels=4, out=tmp_path))
    told = capsys.readouterr().out
    assert told.count("ended after 6 of 7 epochs") == len(nets)
    rows = [line.split() for line in told.splitlines() if line.startswith(nets) and " " in line]
    assert [row[0] for row in rows] == list(nets)
    for row in rows:
        assert float(row[2]) > 0.6  # of training; chance is 0.5
    here = tmp_path / "ch08_variations"
    assert is_picture(here / "accuracy.png")
    assert {path.name for path in here.glob("history_*")} == {
        f"history_{name}.jsonl" for name in nets
    }
