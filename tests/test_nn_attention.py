"""Attention and transformers against torch's (the referee): output, gradients, every option."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from torch.testing._internal.common_modules import module_db

from dlwp_jax import nn, parity
from dlwp_jax.nn import attention
from tests.nn_parity import assert_close, pairwise, random

# torch about its shortcut for evaluation, and about masks of two kinds.
pytestmark = [
    pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning"),
]

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same numbers, whichever tests ran before it."""
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


def torch_gradients(function, *arrays):
    """torch's output and its gradients by each array, for a fixed cotangent."""
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    y = function(*tensors)
    cotangent = random(*y.shape, seed=1).astype(arrays[0].dtype)
    y.backward(torch.tensor(cotangent))
    return y.detach().numpy(), [x.grad.numpy() for x in tensors], cotangent


def check_function(ours, theirs, *arrays, tolerance=3e-6):
    """Output and gradients by every array, under jit."""
    y, gradients, cotangent = torch_gradients(theirs, *arrays)

    @jax.jit
    def run(arrays, cotangent):
        y, pull = jax.vjp(ours, *arrays)
        return y, pull(cotangent)

    got, pulled = run(arrays, cotangent)
    assert_close(got, y, tolerance, "output")
    for here, there in zip(pulled, gradients, strict=True):
        assert_close(here, there, tolerance, "gradient")


# The function

ALLOWED = rng.random((2, 1, 6, 5)) > 0.4
ALLOWED[0, 0, 2] = False  # A row that sees nothing.
MASKS = {
    "none": None,
    "boolean": ALLOWED,
    "boolean [L S]": ALLOWED[0, 0],
    "boolean [1 S]": ALLOWED[:1, :, :1],
    "additive": np.where(ALLOWED, rng.standard_normal(ALLOWED.shape), -np.inf).astype("f"),
}


# Each two of: a mask, causal or not, whole or in blocks.
MASKED = [
    pytest.param(mask, causal, (i + causal) % 2 == 1, id=mask + ", causal" * causal)
    for i, mask in enumerate(MASKS)
    for causal in (False, True)
]


@pytest.mark.parametrize(("mask", "causal", "blocks"), MASKED)
def test_masks(mask, causal, blocks, monkeypatch):
    if blocks:  # of two rows
        monkeypatch.setattr(attention, "BLOCK", 2 * 2 * 3 * 5)
    q, k, v = random(2, 3, 6, 4), random(2, 3, 5, 4, seed=2), random(2, 3, 5, 7, seed=3)
    given = MASKS[mask]
    theirs = None if given is None else torch.tensor(given)
    causal_there = causal
    if causal and given is not None:  # torch takes one of the two.
        causal_there, seen = False, torch.ones(6, 5, dtype=torch.bool).tril()
        both = theirs.dtype == torch.bool
        theirs = theirs & seen if both else torch.where(seen, theirs, -torch.inf)
    check_function(
        lambda *x: nn.scaled_dot_product_attention(*x, given, is_causal=causal),
        lambda *x: F.scaled_dot_product_attention(*x, theirs, is_causal=causal_there),
        *(q, k, v),
    )


def test_scale_grouped_queries_and_leading_axes():
    q, k, v = random(2, 6, 5, 4), random(2, 3, 5, 4, seed=2), random(2, 3, 5, 4, seed=3)
    options = {"enable_gqa": True, "scale": 0.3}
    check_function(
        lambda *x: nn.scaled_dot_product_attention(*x, **options),
        lambda *x: F.scaled_dot_product_attention(*x, **options),
        *(q, k, v),
    )
    check_function(
        lambda *x: nn.scaled_dot_product_attention(*x, **options),
        lambda *x: F.scaled_dot_product_attention(*x, **options),
        *(q, k, v[:, :1]),
    )
    for x in (q[0, 0], q[0]):
        want = F.scaled_dot_product_attention(*[torch.tensor(x)] * 3)
        assert_close(nn.scaled_dot_product_attention(x, x, x), want)


@pytest.mark.parametrize("heads", [(2, 4, 4), (3, 2, 2), (4, 2, 3)], ids=str)
def test_heads_that_do_not_divide_the_querys_are_refused(heads):
    arrays = [random(1, number, 3, 4) for number in heads]
    with pytest.raises(RuntimeError, match="must divide"):
        F.scaled_dot_product_attention(*map(torch.tensor, arrays), enable_gqa=True)
    with pytest.raises(ValueError, match="multiple of the"):
        nn.scaled_dot_product_attention(*arrays, enable_gqa=True)


def test_float64():
    arrays = [random(2, 3, 6, 4, seed=i).astype(np.float64) for i in range(3)]
    with jax.enable_x64(True):
        check_function(
            functools.partial(nn.scaled_dot_product_attention, is_causal=True),
            functools.partial(F.scaled_dot_product_attention, is_causal=True),
            *arrays,
            tolerance=1e-12,
        )


def test_jaxs_own_attention_can_be_taken():
    arrays = [random(2, 3, 6, 4, seed=i) for i in range(3)]
    mask = rng.random((6, 6)) > 0.3
    mask[:, 0] = True
    for given in (mask, np.where(mask, 0.5, -1e9).astype("f")):
        check_function(
            lambda *x, m=given: nn.scaled_dot_product_attention(*x, m, implementation="xla"),
            lambda *x, m=given: F.scaled_dot_product_attention(*x, torch.tensor(m)),
            *arrays,
        )
    with pytest.raises(ValueError, match="no dropout"):
        nn.scaled_dot_product_attention(
            *arrays, None, 0.5, dropout_key=jax.random.key(0), implementation="xla"
        )


def test_dropout_of_weights():
    """torch scales what it keeps by 1 / (1 - p): so each output is a sum of such weights."""
    x = jnp.zeros((4, 8))
    key = jax.random.key(0)
    weights = nn.scaled_dot_product_attention(
        jnp.zeros((500, 4)), x.T, jnp.eye(8), None, 0.25, dropout_key=key
    )
    values, counts = np.unique(np.asarray(weights), return_counts=True)
    np.testing.assert_allclose(values, [0, 1 / 8 / 0.75], rtol=1e-6)
    assert abs(counts[0] / weights.size - 0.25) < 0.03
    with pytest.raises(ValueError, match="give a key"):
        nn.scaled_dot_product_attention(x, x, x, None, 0.25)


def test_memory_grows_with_the_length_and_not_with_its_square():
    """XLA says how much a program needs beside its arguments and results."""

    def needed(length):
        x = jax.ShapeDtypeStruct((1, 8, length, 16), jnp.float32)

        def loss(q, k, v):
            return nn.scaled_dot_product_attention(q, k, v, is_causal=True).sum()

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = needed(4096), needed(8192)
    assert long < 2.5 * short
    assert short < 4 * 4 * 2**24  # four arrays of one block


# MultiheadAttention


def check_module(theirs, ours, arrays, call_theirs, call_ours, tolerance=3e-6):
    """Outputs, gradients by inputs and by parameters, inside a scan under jit."""
    loaded = parity.load_torch(ours, theirs)
    theirs.zero_grad()
    y, gradients, cotangent = torch_gradients(functools.partial(call_theirs, theirs), *arrays)
    graph, params, rest = nnx.split(ours, nnx.Param, ...)

    def step(carry, _):
        def run(params, *arrays):
            return call_ours(nnx.merge(graph, params, rest, copy=True), *arrays)

        y, pull = jax.vjp(run, params, *arrays)
        return carry, (y, pull(jnp.asarray(cotangent)))

    looped = jax.device_get(jax.jit(lambda: jax.lax.scan(step, 0, length=2))()[1])
    got, (dparams, *dinputs) = jax.tree.map(lambda value: jnp.asarray(value[1]), looped)
    assert_close(got, y, tolerance, "output")
    for here, there in zip(dinputs, gradients, strict=True):
        assert_close(here, there, tolerance, "gradient of an input")
    nnx.update(ours, dparams)
    for name, gradient in parity.to_torch(ours, loaded).items():
        wanted = dict(theirs.named_parameters())[name].grad
        wanted = torch.zeros_like(gradient) if wanted is None else wanted
        assert_close(gradient, wanted, 10 * tolerance, f"gradient of {name}")


def both(name, *args, **options):
    """torch's layer and ours."""
    return getattr(torch.nn, name)(*args, **options), getattr(nn, name)(
        *args, **options, rngs=nnx.Rngs(0)
    )


ATTN = rng.random((5, 5)) > 0.6
ATTN[np.arange(5), np.arange(5)] = False
BY_HEAD = rng.random((6, 5, 5)) > 0.6
BY_HEAD[:, np.arange(5), np.arange(5)] = False
PADDING = np.array([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0] * 5], bool)
NUMBERS = np.where(ATTN, -np.inf, 0).astype("f")
SELF = {
    "plain": ({}, {}),
    "batch_first": ({"batch_first": True}, {}),
    "no bias": ({"bias": False}, {}),
    "mask": ({}, {"attn_mask": ATTN}),
    "mask of numbers": ({}, {"attn_mask": NUMBERS}),
    "mask by head": ({"batch_first": True}, {"attn_mask": BY_HEAD}),
    "padding": ({}, {"key_padding_mask": PADDING}),
    "padding and mask": ({}, {"key_padding_mask": PADDING, "attn_mask": ATTN}),
    "padding and numbers": (
        {},
        {"key_padding_mask": np.where(PADDING, -1, 0).astype("f"), "attn_mask": NUMBERS},
    ),
    "bias_kv": ({"add_bias_kv": True}, {"attn_mask": ATTN, "key_padding_mask": PADDING}),
    "zero_attn": ({"add_zero_attn": True}, {"attn_mask": NUMBERS}),
}


def tensors(options):
    found = {}
    for name, value in options.items():
        found[name] = torch.tensor(value) if isinstance(value, np.ndarray) else value
    return found


WITHOUT_WEIGHTS = ("plain", "padding and mask", "padding and numbers", "mask by head")
CASES = [(case, True) for case in SELF] + [(case, False) for case in WITHOUT_WEIGHTS]


@pytest.mark.parametrize(("case", "need_weights"), CASES)
def test_self_attention(case, need_weights):
    options, masks = SELF[case]
    theirs, ours = both("MultiheadAttention", 8, 2, **options)
    x = random(3, 5, 8) if options.get("batch_first") else random(5, 3, 8)
    check_module(
        theirs,
        ours,
        [x],
        lambda m, x: m(x, x, x, need_weights=need_weights, **tensors(masks))[0],
        lambda m, x: m(x, x, x, need_weights=need_weights, **masks)[0],
    )
    if need_weights:
        for average in (True, False):
            given = {**masks, "average_attn_weights": average}
            want = theirs(*[torch.tensor(x)] * 3, **tensors(given))[1]
            parity.load_torch(ours, theirs)
            assert_close(ours(x, x, x, **given)[1], want.detach())


@pytest.mark.parametrize("sizes", [{}, {"kdim": 6, "vdim": 4}, {"vdim": 4}], ids=str)
def test_cross_attention(sizes):
    theirs, ours = both("MultiheadAttention", 8, 2, batch_first=True, **sizes)
    kdim, vdim = sizes.get("kdim", 8), sizes.get("vdim", 8)
    arrays = [random(2, 3, 8), random(2, 5, kdim, seed=2), random(2, 5, vdim, seed=3)]
    check_module(theirs, ours, arrays, lambda m, *x: m(*x)[0], lambda m, *x: m(*x)[0])
    if not sizes:  # Keys that are the values.
        check_module(
            theirs,
            ours,
            arrays[:2],
            lambda m, q, k: m(q, k, k)[0],
            lambda m, q, k: m(q, k, k)[0],
        )


def test_one_sequence_without_a_batch():
    theirs, ours = both("MultiheadAttention", 8, 2)
    x, mask = random(5, 8), PADDING[1]
    parity.load_torch(ours, theirs)
    want = theirs(*[torch.tensor(x)] * 3, key_padding_mask=torch.tensor(mask))
    for here, there in zip(ours(x, x, x, key_padding_mask=mask), want, strict=True):
        assert_close(here, there.detach())


def test_a_sequence_of_nothing_but_padding():
    """NaN with weights and zero without, as in torch."""
    theirs, ours = both("MultiheadAttention", 8, 2, batch_first=True)
    parity.load_torch(ours, theirs)
    x, mask = random(2, 3, 8), np.array([[True] * 3, [False] * 3])
    for need_weights in (True, False):
        want, _ = theirs(
            *[torch.tensor(x)] * 3,
            key_padding_mask=torch.tensor(mask),
            need_weights=need_weights,
        )
        got, _ = ours(x, x, x, key_padding_mask=mask, need_weights=need_weights)
        np.testing.assert_allclose(got, want.detach(), atol=1e-6)


@pytest.mark.parametrize("more", ["add_bias_kv", "add_zero_attn"])
def test_causal_attention_needs_no_mask_here(more):
    theirs, ours = both("MultiheadAttention", 8, 2, batch_first=True, **{more: True})
    parity.load_torch(ours, theirs)
    x = random(3, 5, 8)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5)
    want, _ = theirs(*[torch.tensor(x)] * 3, attn_mask=mask)
    assert_close(ours(x, x, x, is_causal=True)[0], want.detach())
    assert_close(ours(x, x, x, is_causal=True, need_weights=False)[0], want.detach())
    drawn = nn.Transformer.generate_square_subsequent_mask(5)
    np.testing.assert_array_equal(drawn, mask)


def test_heads_that_do_not_divide_the_features():
    with pytest.raises(ValueError, match="multiple of num_heads"):
        nn.MultiheadAttention(8, 3, rngs=nnx.Rngs(0))


def test_initial_parameters_are_distributed_as_torchs():
    torch.manual_seed(0)
    theirs, ours = both("MultiheadAttention", 64, 2, kdim=32, add_bias_kv=True)
    drawn = parity.to_torch(ours)
    assert drawn.keys() == theirs.state_dict().keys()
    for name, wanted in theirs.state_dict().items():
        assert drawn[name].shape == wanted.shape
        std = wanted.std().item()
        assert abs(drawn[name].std().item() - std) <= (0.4 if wanted.ndim == 3 else 0.05) * std
    torch.manual_seed(0)
    theirs, ours = both("Transformer", 32, 2, 1, 1, 64)
    drawn = parity.to_torch(ours)
    for name, wanted in theirs.state_dict().items():
        std = wanted.std().item()
        assert abs(drawn[name].std().item() - std) <= (0.05 if wanted.ndim > 1 else 0.4) * std


# Transformers


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_first": True, "activation": "gelu", "batch_first": True},
        {"bias": False, "layer_norm_eps": 1e-3},
    ],
    ids=str,
)
def test_encoder_layer(options):
    theirs, ours = both("TransformerEncoderLayer", 8, 2, 12, 0.0, **options)
    x = random(3, 5, 8) if options.get("batch_first") else random(5, 3, 8)
    check_module(
        theirs,
        ours,
        [x],
        lambda m, x: m(x, torch.tensor(NUMBERS), torch.tensor(PADDING)),
        lambda m, x: m(x, NUMBERS, PADDING),
        tolerance=1e-5,
    )


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_layer(norm_first):
    theirs, ours = both(
        "TransformerDecoderLayer",
        8,
        2,
        12,
        0.0,
        "gelu",
        batch_first=True,
        norm_first=norm_first,
    )
    masks = [NUMBERS, ATTN[:, :4], PADDING, PADDING[:, :4]]
    check_module(
        theirs,
        ours,
        [random(3, 5, 8), random(3, 4, 8, seed=2)],
        lambda m, *x: m(*x, *map(torch.tensor, masks)),
        lambda m, *x: m(*x, *masks),
        tolerance=1e-5,
    )


def test_transformer():
    theirs, ours = both("Transformer", 8, 2, 2, 2, 12, 0.0, batch_first=True)
    masks = {
        "tgt_mask": NUMBERS,
        "src_key_padding_mask": PADDING[:, :4],
        "memory_key_padding_mask": PADDING[:, :4],
        "tgt_key_padding_mask": PADDING,
    }
    check_module(
        theirs,
        ours,
        [random(3, 4, 8), random(3, 5, 8, seed=2)],
        lambda m, *x: m(*x, **tensors(masks)),
        lambda m, *x: m(*x, **masks),
        tolerance=2e-5,
    )


def test_custom_activation_and_parts():
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, F.silu, batch_first=True)
    theirs = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(8))
    ours = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 12, 0.0, nn.silu, batch_first=True, rngs=nnx.Rngs(0)),
        2,
        nn.LayerNorm(8),
        rngs=nnx.Rngs(0),
    )
    first, second = (layer.linear1.kernel[...] for layer in ours.layers)
    assert not np.array_equal(first, second)  # Torch's layers start equal.
    loaded = parity.load_torch(ours, theirs)
    assert parity.compare(theirs, ours, random(3, 5, 8), loaded=loaded, double=True).ok
    with pytest.raises(ValueError, match="'relu', 'gelu' or a function"):
        nn.TransformerEncoderLayer(8, 2, activation="swish", rngs=nnx.Rngs(0))


def test_a_layer_that_was_changed_by_hand_is_not_copied_without_the_change():
    layer = nn.TransformerEncoderLayer(8, 2, 12, rngs=nnx.Rngs(0))
    layer.norm1 = nn.RMSNorm(8)
    with pytest.raises(ValueError, match="was changed after it was made"):
        nn.TransformerEncoder(layer, 2, rngs=nnx.Rngs(0))


def test_layers_drop_differently_and_only_in_training():
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.5, batch_first=True, rngs=nnx.Rngs(0))
    encoder = nn.TransformerEncoder(layer, 2, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 64, 8))
    streams = [each.self_attn.rngs() for each in encoder.layers]
    assert streams[0] != streams[1]
    assert not np.array_equal(encoder(x), encoder(x))
    encoder.eval()
    np.testing.assert_array_equal(encoder(x), encoder(x))


def test_mapped_over_members():
    """`vmap` over models, as a sweep does it, against torch's models one by one."""
    pairs = [both("TransformerEncoderLayer", 8, 2, 12, 0.0, batch_first=True) for _ in "ab"]
    for theirs, ours in pairs:
        parity.load_torch(ours, theirs)
    x = random(3, 5, 8)
    graph, *_ = nnx.split(pairs[0][1])
    states = [nnx.state(ours) for _, ours in pairs]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    got = jax.jit(
        jax.vmap(lambda state: nnx.merge(graph, state, copy=True)(x, is_causal=True))
    )(stacked)
    mask = torch.tensor(np.triu(np.full((5, 5), -np.inf, "f"), 1))
    for here, (theirs, _) in zip(got, pairs, strict=True):
        assert_close(here, theirs(torch.tensor(x), mask).detach(), 1e-5)


DATABASE = {info.name.removeprefix("nn."): info for info in module_db}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["MultiheadAttention", "TransformerEncoderLayer", "TransformerDecoderLayer", "Transformer"],
)
def test_cases_of_torchs_database(name):
    """Outputs in train mode, which has no shortcut, with every two options and masks of the
    cases together.
    """
    options = {"device": "cpu", "dtype": torch.float32, "requires_grad": False}
    cases = DATABASE[name].module_inputs_func(DATABASE[name], **options, training=True)
    for case in pairwise(cases):
        made, given = case.constructor_input, case.forward_input
        print(made.args, made.kwargs)  # Shown on failure.
        theirs = getattr(torch.nn, name)(*made.args, **made.kwargs)
        args, named = _ours(made)
        ours = getattr(nn, name)(*args, **named, rngs=nnx.Rngs(0))
        parity.load_torch(ours, theirs)
        args, named = _ours(given)
        want, got = theirs(*given.args, **given.kwargs), ours(*args, **named)
        for there, here in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
            assert_close(here, there.detach(), 1e-5)


def _ours(given):
    """Arguments with NumPy's arrays for torch's, and our functions for torch's."""

    def turned(value):
        if callable(value) and not isinstance(value, torch.Tensor):
            return getattr(nn, value.__name__)
        return value.numpy() if isinstance(value, torch.Tensor) else value

    args = [turned(value) for value in given.args]
    return args, {name: turned(value) for name, value in given.kwargs.items()}


def test_over_no_keys_at_all_the_output_is_zero():
    """Referee: torch."""
    query, key = torch.ones(2, 3, 4), torch.ones(2, 0, 4)
    theirs = torch.nn.functional.scaled_dot_product_attention(query, key, key)
    ours = nn.scaled_dot_product_attention(query.numpy(), key.numpy(), key.numpy())
    np.testing.assert_array_equal(ours, theirs)
