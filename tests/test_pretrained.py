"""Chapter 2's experiment as a person runs it: with weights in a file, without, and with files
that will not do.
"""

import re
import sys

import numpy as np
import pytest
import torch
from flax import nnx
from PIL import Image
from sklearn.datasets import load_sample_images

from dlwp_jax.data import image, imagenet
from experiments import ch02_pretrained as experiment
from experiments.nodules.detector import unfilled
from tests.reference import imagenet_networks as reference

CLASSES = 6
CHINA = load_sample_images().filenames[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of a torch twin, labels, a picture; and what torch says of the picture."""
    folder = tmp_path_factory.mktemp("pretrained")
    theirs = reference.make("resnet18", num_classes=CLASSES)
    torch.save(theirs.state_dict(), folder / "resnet18.pth")
    (folder / "labels.txt").write_text(
        "".join(f"word {i}, of class {i}\n" for i in range(CLASSES))
    )
    x = imagenet.preprocess(image.read(CHINA))
    with torch.no_grad():
        shares = theirs(torch.from_numpy(np.moveaxis(x, -1, 0)[None])).softmax(1)[0].numpy()
    return folder, shares


def config(folder, **changes):
    options = {
        "weights": folder / "resnet18.pth",
        "labels": folder / "labels.txt",
        "picture": (CHINA,),
    } | changes
    paths = {
        name: experiment.Path(options[name]) for name in ("weights", "labels") if options[name]
    }
    pictures = tuple(map(experiment.Path, options.pop("picture")))
    chosen = {"model": "resnet18", "classes": CLASSES, "out": folder / "runs"} | options | paths
    return experiment.Config(picture=pictures, **chosen)


@pytest.fixture
def to_be_filled(monkeypatch):
    """Networks that wait for a file, and of which no one asks how many parameters others
    have.
    """

    def empty(name):
        make, published = experiment.NETWORKS[name]
        return lambda *classes, rngs: unfilled(
            lambda: make(*classes, rngs=nnx.Rngs(0))
        ), published

    networks = {name: empty(name) for name in ("resnet18", "alexnet")}
    monkeypatch.setattr(experiment, "NETWORKS", networks)


@pytest.mark.usefixtures("to_be_filled")
def test_a_file_of_weights_gives_torchs_answers_under_their_labels(files, capsys):
    folder, shares = files
    experiment.main(config(folder))
    shown = capsys.readouterr().out
    answers = re.findall(r"^ +([\d.]+)%  word (\d), of class \2$", shown, re.MULTILINE)
    assert [int(i) for _, i in answers] == np.argsort(-shares)[:5].tolist()
    # Printed to 0.01 %.
    np.testing.assert_allclose(
        [float(share) for share, _ in answers], 100 * np.sort(shares)[:0:-1], atol=0.0051
    )
    assert "random" not in shown
    assert "122 arrays, each found its place by name" in shown
    assert (
        (folder / "runs" / "ch02_pretrained" / "top5.png").read_bytes().startswith(b"\x89PNG")
    )


def test_without_files_it_says_that_the_answers_mean_nothing(tmp_path, capsys):
    experiment.main(experiment.Config(model="resnet18", out=tmp_path))
    shown = capsys.readouterr().out
    assert "these weights are random, and the answers mean nothing" in shown
    assert (
        len(re.findall(r"%  class \d+$", shown, re.MULTILINE)) == 10
    )  # numbers, for no label is known
    assert [line.split()[-1] for line in shown.splitlines()[1:5]] == ["equal"] * 4
    for stage in (
        "conv1      (1, 112, 112, 64)",
        "layer4     (1, 7, 7, 512)",
        "fc         (1, 1000)",
    ):
        assert stage in shown
    assert (tmp_path / "ch02_pretrained" / "config.json").exists()


def truncated(folder):
    whole = (folder / "resnet18.pth").read_bytes()
    (folder / "cut.pth").write_bytes(whole[: len(whole) // 2])
    return {"weights": folder / "cut.pth"}


def of_another_network(folder):
    torch.save(
        {f"features.{i}.weight": torch.zeros(8, 3, 3, 3) for i in range(40)},
        folder / "other.pth",
    )
    return {"weights": folder / "other.pth"}


def no_picture(folder):
    (folder / "notes.png").write_text("not a picture")
    return {"picture": (CHINA, folder / "notes.png")}


def sixteen_bits(folder):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "deep.png")
    return {"picture": (folder / "deep.png",)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (truncated, r"cut\.pth: damaged, or no torch file"),
        (
            of_another_network,
            r"other\.pth does not fit the network that --model .*features\.11\.weight and 28 "
            r"more\. Not",
        ),
        (
            lambda _: {"model": "alexnet"},
            r"resnet18\.pth does not fit the network that --model and --classes ask for",
        ),
        (lambda _: {"classes": 7, "labels": None}, r"does not fit .*fc\.\w+ \(6.*"),
        (lambda _: {"classes": 7}, r"labels\.txt has 6 lines; 7 are wanted"),
        (lambda _: {"classes": 4}, "a list of 5 needs 5 or more"),
        (lambda _: {"weights": None}, "--labels names the classes of --weights"),
        (no_picture, r"notes\.png cannot be read as a picture"),
        (sixteen_bits, r"deep\.png has 16 bits a pixel"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.usefixtures("to_be_filled")
def test_files_that_will_not_do_are_refused_in_a_sentence(files, change, message):
    folder, _ = files
    with pytest.raises(ValueError, match=message) as refused:
        experiment.main(config(folder, **change(folder)))
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("to_be_filled")
def test_torch_is_asked_for_by_name_and_only_with_weights(files, monkeypatch):
    folder, _ = files
    for name in [name for name in sys.modules if name.startswith("dlwp_jax.parity")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("dlwp_jax.parity", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ValueError,
        match=r"--weights needs torch to read the file: pip install 'dlwp-jax\[parity\]'",
    ):
        experiment.main(config(folder))
