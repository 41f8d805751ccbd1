"""Which axis of an input holds the channels, and in which dtype the models compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn, optim, parity, train
from dlwp_jax.parity.forward import input_turns


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Permuted(torch.nn.Module):
    """Takes `[N T C]` and turns it for its own convolution."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(4, 6, 3)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def linear(x):
    return torch.nn.functional.linear(x, torch.ones(3, 4))


class Behind(torch.nn.Module):
    """A function ahead of the first layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x * 2)


SEES = {
    "Conv1d over N C T": (torch.nn.Conv1d(4, 6, 3), (2, 4, 5), True),
    "Conv2d": (torch.nn.Conv2d(4, 6, 3), (2, 4, 5, 5), True),
    "BatchNorm1d over N C T": (torch.nn.BatchNorm1d(4), (2, 4, 5), True),
    "Linear over N T C": (torch.nn.Linear(4, 6), (2, 5, 4), False),
    "Linear over N H W C": (torch.nn.Linear(4, 6), (2, 5, 5, 4), False),
    "LayerNorm over C": (torch.nn.LayerNorm(4), (2, 5, 4), False),
    "LayerNorm over C H W": (torch.nn.LayerNorm((4, 5, 5)), (2, 4, 5, 5), True),
    "dropout, then Linear": (
        torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(4, 6)),
        (2, 4, 4),
        False,
    ),
    "ReLU, then Conv1d": (
        torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv1d(4, 6, 3)),
        (2, 4, 4),
        True,
    ),
    "turned inside": (Permuted(), (2, 5, 4), False),
    "a function, then Linear": (Behind(torch.nn.Linear(4, 6)), (2, 4, 4), False),
    "a function, then Conv": (Behind(torch.nn.Conv1d(4, 6, 3)), (2, 4, 4), True),
    "functions alone": (
        Function(lambda x: torch.nn.functional.layer_norm(x.relu(), (4,))),
        (2, 4, 4),
        False,
    ),
    "pooling by function": (
        Function(lambda x: torch.nn.functional.max_pool2d(x, 2)),
        (2, 4, 4, 4),
        True,
    ),
    "mixes its axes, then Linear only": (
        Function(lambda x: linear(x.flip(1).cumsum(2)[:, 1:])),
        (2, 4, 4),
        False,
    ),
    "a network over flattened images": (
        Function(
            lambda x: torch.nn.functional.linear(
                x.cumsum(2)[:, 1:].flatten(1), torch.ones(3, 48)
            )
        ),
        (2, 4, 4, 4),
        True,
    ),
    "nothing tells": (torch.nn.ReLU(), (2, 4, 4), True),
    "rows": (torch.nn.Linear(4, 6), (2, 4), False),
}


@pytest.mark.parametrize("kind", SEES)
def test_the_first_layer_tells_where_the_channels_are(kind):
    module, shape, turned = SEES[kind]
    assert input_turns(module, [normal(*shape)]) == (turned,)


def test_words_of_the_layout_go_before_what_is_seen():
    conv, linear = torch.nn.Conv1d(4, 6, 3), torch.nn.Linear(4, 6)
    assert input_turns(conv, [normal(2, 4, 4)], "as_is") == (False,)
    assert input_turns(linear, [normal(2, 4, 4)], ["channels_first"]) == (True,)
    for words in ("NCHW", ["auto", "as_is"]):
        with pytest.raises(
            ValueError, match=r"layout=.*: give one of auto, channels_first, as_is"
        ):
            input_turns(linear, [normal(2, 4, 4)], words)


class Tokens(nnx.Module):
    """A Linear over every place of `[N T C]`."""

    def __init__(self, rngs):
        self.up, self.norm, self.down = (
            nn.Linear(4, 6, rngs=rngs),
            nn.LayerNorm(6),
            nn.Linear(6, 4, rngs=rngs),
        )

    def __call__(self, x):
        return self.down(nnx.relu(self.norm(self.up(x))))


@pytest.mark.parametrize(
    "steps", [5, 4]
)  # 4 x 4: the shape of the output does not tell its layout
def test_a_linear_over_n_t_c_is_compared_and_trained_as_it_is(steps):
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.ReLU(), torch.nn.Linear(6, 4)
    )
    ours, x = Tokens(nnx.Rngs(0)), normal(3, steps, 4)
    loaded = parity.load_torch(ours, theirs, probe=x)
    parity.compare(theirs, ours, x, loaded=loaded).raise_if_different()
    opt = torch.optim.SGD(theirs.parameters(), lr=0.1)
    learner, state = train.make_learner(
        ours, lambda m, b: (jnp.mean(m(b) ** 2), {}), optim.sgd(0.1), key=jax.random.key(0)
    )
    report = parity.compare_steps(
        theirs, opt, learner, state, [x, x], lambda m, b: (m(b) ** 2).mean(), loaded=loaded
    )
    assert report.raise_if_different().rows[-1].step == 1


def test_a_square_output_of_a_convolution_is_found_channels_last():
    theirs, ours = torch.nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    parity.compare(theirs, ours, normal(2, 4, 4)).raise_if_different()


def networks(dtype, wrong=False):
    torch.manual_seed(0)
    layers = (
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(72, 2),
    )
    rngs, options = nnx.Rngs(0), {"param_dtype": dtype} if dtype else {}
    last = nn.Identity() if wrong else nn.ReLU()
    conv = nn.Conv2d(3, 8, 3, rngs=rngs, **options)
    ours = nn.Sequential(
        conv, last, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 2, rngs=rngs, **options)
    )
    return torch.nn.Sequential(*layers), ours


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.slow
def test_models_in_16_bits_are_compared_in_their_own_dtype(dtype, own):
    theirs, ours = networks(getattr(jnp, dtype) if own else None)
    theirs = theirs.to(getattr(torch, dtype))
    loaded = parity.load_torch(ours, theirs, probe=normal(2, 3, 8, 8))
    parity.compare(theirs, ours, normal(2, 3, 8, 8), loaded=loaded).raise_if_different()
    report = parity.compare(
        theirs, ours, normal(2, 3, 8, 8), loaded=loaded, double=True
    )  # the same weights, widened
    assert report.raise_if_different().ok
    _, wrong = networks(getattr(jnp, dtype), wrong=True)
    loaded = parity.load_torch(wrong, theirs)
    assert not parity.compare(theirs, wrong, normal(2, 3, 8, 8), loaded=loaded).ok


def test_inputs_in_bfloat16_are_taken_and_steps_in_16_bits_are_refused_in_a_sentence():
    theirs, ours = (
        torch.nn.Linear(3, 2).bfloat16(),
        nn.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16),
    )
    parity.load_torch(ours, theirs)
    for x in (
        torch.ones(4, 3, dtype=torch.bfloat16),
        jnp.ones((4, 3), jnp.bfloat16),
        np.ones((4, 3)),
    ):
        parity.compare(theirs, ours, x).raise_if_different()
    opt = torch.optim.SGD(theirs.parameters(), lr=0.1)
    learner, state = train.make_learner(
        ours, lambda m, b: (jnp.mean(m(b)), {}), optim.sgd(0.1), key=jax.random.key(0)
    )
    with pytest.raises(
        NotImplementedError,
        match=r"steps in torch\.bfloat16 are not compared; train both models in",
    ):
        parity.compare_steps(
            theirs, opt, learner, state, [np.ones((4, 3))], lambda m, b: m(b).mean()
        )


def test_a_torch_model_in_float64_is_compared_with_a_port_in_float32():
    theirs, ours = torch.nn.Linear(3, 2).double(), nn.Linear(3, 2, rngs=nnx.Rngs(0))
    with torch.no_grad():
        theirs.weight.div_(3), theirs.bias.div_(3)  # no longer numbers that float32 has
    parity.load_torch(ours, theirs)
    report = parity.compare(theirs, ours, normal(4, 3))
    assert {row.stage for row in report.rows if not row.ok} == {
        "weights"
    }  # rounded on the way, to the last place
    assert max(row.max_rel for row in report.rows) < 1e-6
