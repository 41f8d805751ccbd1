"""Linear, Embedding, flattening; and every layer is a static, hashable program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import nn
from tests.nn_parity import assert_close, check, last, random, takes_rngs, unchanged


@pytest.mark.parametrize(("bias", "shape"), [(True, (4, 6)), (False, (2, 3, 6)), (True, (6,))])
def test_linear(bias, shape):
    check(
        torch.nn.Linear(6, 5, bias),
        nn.Linear(6, 5, bias, rngs=nnx.Rngs(0)),
        random(*shape),
        turn=unchanged,
    )


def test_embedding_and_its_padding_row():
    theirs = torch.nn.Embedding(7, 3, padding_idx=-2)
    ours = nn.Embedding(7, 3, padding_idx=-2, rngs=nnx.Rngs(0))
    assert ours.padding_idx == theirs.padding_idx == 5
    assert not ours.embedding[...][5].any()
    ours.embedding[...] = jnp.asarray(theirs.weight.detach().numpy())
    indices, weight = np.array([[0, 5, 2], [2, 6, 5]]), random(2, 3, 3)
    want = theirs(torch.tensor(indices))
    want.backward(torch.tensor(weight))
    graphdef, params = nnx.split(ours)
    got, pull = jax.vjp(lambda p: nnx.merge(graphdef, p)(indices), params)
    np.testing.assert_array_equal(got, want.detach())
    assert_close(pull(jnp.asarray(weight))[0]["embedding"][...], theirs.weight.grad)


def test_embedding_refuses_rows_it_does_not_have():
    table = nn.Embedding(7, 3, rngs=nnx.Rngs(0))
    for wrong in (7, -1):
        with pytest.raises(IndexError, match="rows 0 to 6"):
            table(jnp.array([wrong, 0]))
        in_jit = jax.jit(lambda i: table(i))(jnp.array([wrong, 0]))
        assert jnp.isnan(in_jit[0]).all()
        assert jnp.isfinite(in_jit[1]).all()
    with pytest.raises(RuntimeError, match="takes integers"):
        table(jnp.ones(2))
    with pytest.raises(ValueError, match="padding_idx=7"):
        nn.Embedding(7, 3, padding_idx=7, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("start", "end"), [(1, -1), (0, -1), (2, 3), (2, -1), (1, 2), (3, 3), (1, 1)]
)
def test_flatten_in_torchs_order(start, end):
    x = random(2, 3, 4, 5)
    want = torch.flatten(torch.tensor(x), start, end).numpy()
    ours = nn.Flatten(start, end)(jnp.asarray(last(x)))
    np.testing.assert_array_equal(ours, last(want) if want.ndim > 2 else want)


def test_flatten_and_unflatten():
    x = jnp.asarray(random(2, 4, 5, 3))
    np.testing.assert_array_equal(nn.Unflatten(1, (3, 4, 5))(nn.Flatten()(x)), x)
    np.testing.assert_array_equal(nn.Flatten()(x[:, 0, 0]), x[:, 0, 0])
    want = torch.unflatten(torch.tensor(np.moveaxis(np.asarray(x), -1, 1)), 2, (2, -1)).numpy()
    np.testing.assert_array_equal(nn.Unflatten(2, (2, -1))(x), last(want))
    with pytest.raises(ValueError, match="leaves no channel axis"):
        nn.flatten(x, 0, 1)
    with pytest.raises(IndexError, match="Dimension out of range"):
        nn.flatten(x, 1, 4)
    with pytest.raises(RuntimeError, match="comes after"):
        nn.flatten(x, 2, 1)
    with pytest.raises(RuntimeError, match="do not multiply to the 60"):
        nn.unflatten(nn.flatten(x), 1, (3, 4, 4))


def layers():
    """One of every public layer; the book's networks, built of them, have tests of their
    own.
    """
    encoder = nn.TransformerEncoderLayer(4, 2, 4, rngs=nnx.Rngs(0))
    decoder = nn.TransformerDecoderLayer(4, 2, 4, rngs=nnx.Rngs(0))
    special = {
        **{f"{kind}{n}d": (4, 4, 3) for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)},
        **dict.fromkeys(("Conv", "ConvTranspose"), (4, 4, (3, 3))),
        **{f"{kind}{n}d": (4,) for kind in ("BatchNorm", "InstanceNorm") for n in (1, 2, 3)},
        **{f"LPPool{n}d": (2.0, 2) for n in (1, 2, 3)},
        **{f"ConstantPad{n}d": (1, 0.5) for n in (1, 2, 3)},
        **{f"FractionalMaxPool{n}d": (2, 3) for n in (2, 3)},
        **{f"MaxUnpool{n}d": (2,) for n in (1, 2, 3)},
        **{f"{kind}{end}": (2, 2) for kind in ("RNN", "LSTM", "GRU") for end in ("", "Cell")},
        **dict.fromkeys(("ChannelShuffle", "LocalResponseNorm", "Unfold"), (2,)),
        "AdaptiveLogSoftmaxWithLoss": (16, 8, [2, 4]),
        "Bilinear": (2, 2, 2),
        "EmbeddingBag": (4, 4),
        "Fold": (4, 2),
        "SyncBatchNorm": (4,),
        "Linear": (4, 4),
        "Embedding": (4, 4),
        "LayerNorm": (4,),
        "RMSNorm": (4,),
        "GroupNorm": (2, 4),
        "StochasticDepth": (0.5,),
        "Threshold": (0.0, 1.0),
        "Unflatten": (1, (2, 2)),
        "Sequential": (),
        "ModuleList": (),
        "LayerStack": (nn.Tanh(), nn.Tanh()),
        "MultiheadAttention": (4, 2),
        "Transformer": (4, 2, 1, 1, 4),
        "TransformerEncoder": (encoder, 1),
        "TransformerDecoder": (decoder, 1),
        "TransformerEncoderLayer": (4, 2, 4),
        "TransformerDecoderLayer": (4, 2, 4),
    }
    for name in vars(nn):  # without the networks of dlwp_jax.models
        cls = getattr(nn, name)
        if isinstance(cls, type) and issubclass(cls, nnx.Module):
            sized = ("Pool", "Pad", "Pixel")
            yield (
                name,
                cls,
                special.get(name, (2,) if any(word in name for word in sized) else ()),
            )


def build_layer(cls, args):
    return cls(*args, **({"rngs": nnx.Rngs(0)} if takes_rngs(cls) else {}))


@pytest.mark.parametrize(
    ("name", "cls", "args"), list(layers()), ids=[entry[0] for entry in layers()]
)
def test_every_layer_is_a_hashable_program_and_switches_mode(name, cls, args):
    one, other = build_layer(cls, args), build_layer(cls, args)
    train = nnx.split(one)[0]
    assert train == nnx.split(other)[0]
    assert hash(train) == hash(nnx.split(other)[0])
    one.eval()
    parts = [node for _, node in nnx.iter_graph(one)]
    has_modes = any(
        hasattr(part, "deterministic") or hasattr(part, "use_running_average") for part in parts
    )
    assert (nnx.split(one)[0] != train) == has_modes
    one.train()
    assert nnx.split(one)[0] == train
    assert cls.__doc__
    assert ">>>" in cls.__doc__, f"{name} has no example"


def test_package_exports_what_it_says():
    assert nn.max_pool(jnp.ones((1, 4, 4, 1)), (2, 2)).shape == (1, 2, 2, 1)
    assert nn.tanh(jnp.float32(0.5)) == jnp.tanh(0.5)
    assert callable(nn.conv)
    assert nn.init.calculate_gain("relu") == pytest.approx(2**0.5)


def test_linear_wrong_use():
    with pytest.raises(
        RuntimeError, match=r"Linear takes \[... 3\]; the input has shape \(2, 4\)"
    ):
        nn.Linear(3, 1, rngs=nnx.Rngs(0))(jnp.ones((2, 4)))
