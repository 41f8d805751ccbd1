"""The vision transformer's experiment; torch cuts the patches too, and is the referee."""

import json

import numpy as np
import pytest
import torch
from flax import nnx

from experiments import ch09_vit
from tests.nn_parity import random


def test_patches_are_torchs():
    images = random(2, 32, 32, 3)
    ours = np.asarray(ch09_vit.patches(images, 8)).reshape(2, 16, 64, 3)
    given = torch.tensor(np.moveaxis(images, -1, 1))
    theirs = torch.nn.functional.unfold(given, 8, stride=8)  # [n channels * 8 * 8 patches]
    theirs = theirs.reshape(2, 3, 64, 16).permute(0, 3, 2, 1)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_short_run(tmp_path, capsys):
    config = ch09_vit.Config(
        classes="two", epochs=2, patch=16, blocks=1, features=8, out=tmp_path
    )
    ch09_vit.main(config)
    shown = capsys.readouterr().out
    assert "a picture of 32 x 32 x 3 is 4 patches of 16 x 16 x 3 = 768 numbers;" in shown
    folder = tmp_path / "ch09_vit"
    for name in ("ViT", "conv_net"):
        lines = (folder / f"history_{name}.jsonl").read_text().splitlines()
        first, last = (json.loads(line)["train/loss"] for line in lines)
        assert last < first < np.log(2) + 0.5
    for name in ("training.png", "attention.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_networks_have_as_many_classes_as_there_are():
    config = ch09_vit.Config(blocks=1, features=8)
    for net in ch09_vit.networks(config, 7).values():
        shape = nnx.eval_shape(lambda x, net=net: net(x), random(2, 32, 32, 3)).shape
        assert shape == (2, 7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patch": 5}, "--patch must divide 32; got 5"),
        ({"features": 6}, "multiple of 4; got 6"),
        ({"blocks": 0}, "--blocks and --features must be at least 1"),
        ({"epochs": -1}, "not negative"),
    ],
)
def test_what_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ch09_vit.Config(**wrong)
