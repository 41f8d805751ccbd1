"""Every function and layer of `nn`, every loss, in every dtype: torch's number, or a sentence.

The referee is torch in float64, given the same values: a whole number means the same number in
floating point, also if torch refuses its dtype. uint8 pictures are resized to uint8, rounded.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from dlwp_jax import losses, nn, parity

WHOLE = ["bool", "uint8", "int8", "int16", "int32", "int64"]
REAL = ["float16", "bfloat16", "float32", "float64"]
# JAX makes int32 of int64 and float32 of float64 unless 64 bits are enabled; int16 goes the way
# of int8 and int32.
CASES = [(dtype, False) for dtype in WHOLE + REAL if dtype not in ("int16", "int64", "float64")]
CASES += [(dtype, True) for dtype in ("int64", "float32", "float64")]

rng = np.random.default_rng(0)
# uint8 cannot hold the negatives of these, and int8 no sum of two of the largest.
NUMBERS = [0, 1, 3, 5, 100, 127, 7, 2]
ROW = np.array(NUMBERS)
GRID = rng.uniform(-1.2, 1.2, (1, 3, 3, 2))
RAMP = np.linspace(-1, 1, 8)


def spatial(axes):
    return rng.choice(NUMBERS, (1, *(4,) * axes, 2))


def values(array, dtype):
    """The array in a dtype; unless that is int8, with numbers that int8 cannot hold."""
    if dtype == "bool":
        return array > 2
    if dtype != "int8":
        array = np.where(array == 127, 200, array)
    return np.asarray(jnp.asarray(array, dtype)) if dtype == "bfloat16" else array.astype(dtype)


def evaluated(layer):
    layer.eval()
    return layer


def with_kernel(layer, kernel):
    layer.kernel[...] = jnp.asarray(kernel, jnp.float32)
    return layer


def activations():
    """The elementwise functions that have one name and one signature in torch and here."""
    options = {
        **{name: {"dim": -1} for name in ("softmax", "softmin", "log_softmax")},
        "threshold": {"threshold": 3, "value": -1},
        "softplus": {"beta": 3},
        "softshrink": {"lambd": 1},
        "hardtanh": {"min_val": -2.5, "max_val": 2.5},
    }
    names = (
        "celu elu gelu glu hardshrink hardsigmoid hardswish leaky_relu mish relu relu6 rrelu"
    )
    names += " selu sigmoid silu softsign tanh tanhshrink"
    for name in [*names.split(), *options]:
        given = options.get(name, {})
        ours, theirs = getattr(nn, name), getattr(F, name)
        yield name, lambda x, f=ours, o=given: f(x, **o), lambda x, f=theirs, o=given: f(x, **o)


def table():
    """name -> (our function, torch's function, input, whether torch has the channels first)."""
    rows = {name: (ours, theirs, ROW, False) for name, ours, theirs in activations()}
    image, volume, sequence = spatial(2), spatial(3), spatial(1)
    by_axes = {1: sequence, 2: image, 3: volume}

    def elementwise(name, ours, theirs):
        rows[name] = ours, theirs, ROW, False

    def on_images(name, ours, theirs, x=image):
        rows[name] = ours, theirs, x, True

    elementwise("log_sigmoid", nn.log_sigmoid, F.logsigmoid)
    elementwise(
        "gelu tanh", lambda x: nn.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")
    )
    half = torch.tensor([0.5]).double()
    elementwise("prelu", lambda x: nn.prelu(x, jnp.float32(0.5)), lambda x: F.prelu(x, half))
    elementwise("dropout", evaluated(nn.Dropout(0.5, rngs=nnx.Rngs(0))), lambda x: x)
    elementwise("LayerNorm", nn.LayerNorm(8), torch.nn.LayerNorm(8).double())
    elementwise("RMSNorm", nn.RMSNorm(8, eps=1e-6), torch.nn.RMSNorm(8, eps=1e-6).double())
    product = with_kernel(nn.Linear(8, 1, bias=False, rngs=nnx.Rngs(0)), RAMP[:, None])
    elementwise("Linear", product, lambda x: x @ torch.tensor(RAMP[:, None]))

    def attend(function):
        def run(x):
            x = x[None, :, None] * 1
            return function(x, x, x)

        return run

    elementwise(
        "scaled_dot_product_attention",
        attend(nn.scaled_dot_product_attention),
        attend(F.scaled_dot_product_attention),
    )
    elementwise(
        "sinusoidal_embedding",
        lambda x: nn.sinusoidal_embedding(x, 4),
        lambda x: torch.stack(
            [f(x * w) for f in (torch.sin, torch.cos) for w in (1, 1e-4)], -1
        ),
    )

    sized = {"nearest": 2, "linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2, "area": 2}
    for mode, axes in sized.items():
        options = {"size": 3, "mode": mode}
        on_images(
            f"interpolate {mode}",
            lambda x, o=options: nn.interpolate(x, **o),
            lambda x, o=options: F.interpolate(x, **o),
            by_axes[axes],
        )
    on_images("max_pool", lambda x: nn.max_pool(x, 2, 1, 1), lambda x: F.max_pool2d(x, 2, 1, 1))
    on_images("avg_pool", lambda x: nn.avg_pool(x, 3, 1, 1), lambda x: F.avg_pool2d(x, 3, 1, 1))
    on_images("lp_pool", lambda x: nn.lp_pool(x, 2, 2), lambda x: F.lp_pool2d(x, 2.0, 2))
    for kind in ("avg", "max"):
        ours = getattr(nn, f"adaptive_{kind}_pool")
        theirs = getattr(F, f"adaptive_{kind}_pool2d")
        on_images(
            f"adaptive_{kind}_pool",
            lambda x, f=ours: f(x, 3),
            lambda x, f=theirs: f(x, 3),
        )
    on_images("pad", nn.ReflectionPad2d(1), torch.nn.ReflectionPad2d(1))
    on_images("pad by 1", nn.ConstantPad2d(1, 1), torch.nn.ConstantPad2d(1, 1))
    grid = torch.tensor(GRID)
    on_images(
        "grid_sample",
        lambda x: nn.grid_sample(x, jnp.asarray(GRID)),
        lambda x: F.grid_sample(x, grid, align_corners=False),
    )
    on_images("pixel_shuffle", nn.PixelUnshuffle(2), torch.nn.PixelUnshuffle(2))
    for n in (1, 2, 3):
        for kind in ("BatchNorm", "InstanceNorm"):
            ours, theirs = (getattr(m, f"{kind}{n}d")(2) for m in (nn, torch.nn))
            on_images(f"{kind}{n}d", ours, theirs.double(), by_axes[n])
    on_images(
        "BatchNorm in eval mode",
        evaluated(nn.BatchNorm2d(2)),
        torch.nn.BatchNorm2d(2).double().eval(),
    )
    elementwise("normalize", lambda x: nn.normalize(x, dim=0), lambda x: F.normalize(x, dim=0))
    ramp = torch.tensor(RAMP)
    elementwise(
        "pairwise_distance",
        lambda x: nn.pairwise_distance(x, RAMP.astype(np.float32)),
        lambda x: F.pairwise_distance(x, ramp),
    )
    elementwise(
        "cosine_similarity",
        lambda x: nn.cosine_similarity(x, RAMP.astype(np.float32), dim=0),
        lambda x: F.cosine_similarity(x, ramp, dim=0),
    )
    elementwise(
        "rms_norm",
        lambda x: nn.rms_norm(x, 8, eps=1e-6),
        lambda x: F.rms_norm(x, (8,), eps=1e-6),
    )
    elementwise("AlphaDropout", evaluated(nn.AlphaDropout(rngs=nnx.Rngs(0))), lambda x: x)
    on_images("local_response_norm", nn.LocalResponseNorm(2), torch.nn.LocalResponseNorm(2))
    on_images("channel_shuffle", nn.ChannelShuffle(2), torch.nn.ChannelShuffle(2))
    on_images("unfold", nn.Unfold(2), torch.nn.Unfold(2))
    rows.update(folded())
    on_images("group_norm", lambda x: nn.group_norm(x, 1), lambda x: F.group_norm(x, 1))
    on_images("instance_norm", nn.instance_norm, F.instance_norm)
    on_images(
        "max_pool with places",
        lambda x: nn.max_unpool(*nn.max_pool(x, 2, return_indices=True), 2),
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    )
    samples = torch.full((1, 2, 2), 0.3).double()
    on_images(
        "fractional_max_pool",
        lambda x: nn.fractional_max_pool(
            x, 2, 2, random_samples=jnp.full((1, 2, 2), 0.3, jnp.float32)
        ),
        lambda x: F.fractional_max_pool2d(x, 2, 2, _random_samples=samples),
    )
    on_images("GroupNorm", nn.GroupNorm(1, 2), torch.nn.GroupNorm(1, 2).double())
    return rows


def folded():
    """Layers of sequences, `[N T C]` in both."""
    columns = np.tile(ROW, (1, 4, 1))  # four windows of 2 x 2 in two channels
    found = {
        "fold": (
            nn.Fold(3, 2),
            lambda x: torch.nn.Fold(3, 2)(x.mT).movedim(1, -1),
            columns,
            False,
        )
    }
    for name in ("RNN", "LSTM", "GRU"):
        theirs = getattr(torch.nn, name)(2, 3, batch_first=True)
        ours = getattr(nn, name)(2, 3, batch_first=True, rngs=nnx.Rngs(0))
        parity.load_torch(ours, theirs)
        theirs = theirs.double()
        found[name] = (
            lambda x, f=ours: f(x)[0],
            lambda x, f=theirs: f(x)[0],
            spatial(1),
            False,
        )
    return found


TABLE = table()


def assert_torchs(got, want, dtype, what):
    """Equal up to a few units in the last place of the dtype, taken at the largest value."""
    if "interpolate" in what and got.dtype == np.uint8:
        want, allowed = np.clip(want, 0, 255), 0.51
    else:
        step = float(jnp.finfo(dtype if dtype in ("float16", "bfloat16") else "float32").eps)
        allowed = 40 * step * max(1.0, np.abs(want).max())
    wide = np.asarray(got).astype(np.float64)
    np.testing.assert_allclose(wide, want, rtol=0, atol=allowed, err_msg=what)


@pytest.mark.parametrize(("dtype", "x64"), CASES)
def test_every_function_and_layer(dtype, x64):
    inputs = {name: values(row[2], dtype) for name, row in TABLE.items()}
    graphs = {name: nnx.split(row[0]) for name, row in TABLE.items() if _is_layer(row[0])}

    @jax.jit  # one program for all of them
    def ours(inputs):
        def called(name):
            return nnx.merge(*graphs[name], copy=True) if name in graphs else TABLE[name][0]

        return {name: called(name)(x) for name, x in inputs.items()}

    with jax.enable_x64(x64):
        results = ours({name: jnp.asarray(x) for name, x in inputs.items()})
    for name, (_, theirs, _, channels_first) in TABLE.items():
        x = torch.tensor(inputs[name].astype(np.float64))
        want = theirs(x.movedim(-1, 1)).movedim(1, -1) if channels_first else theirs(x)
        assert_torchs(np.asarray(results[name]), want.detach().numpy(), dtype, name)


@pytest.mark.parametrize("dtype", WHOLE[1:])
def test_layers_that_refuse_whole_numbers(dtype):
    with pytest.raises(RuntimeError, match="floating"):
        nn.Conv1d(2, 1, 1, rngs=nnx.Rngs(0))(jnp.asarray(values(spatial(1), dtype)))


def _is_layer(function):
    return isinstance(function, nnx.Module)


LOGITS = rng.standard_normal((6, 300))
X, P = rng.standard_normal((3, 4)), rng.uniform(0.1, 0.9, (3, 4))
BITS, SIGNS = rng.integers(0, 2, (3, 4)), rng.choice([-1, 1], (3, 4))
# name -> prediction, target
TARGETS = {
    "mse_loss": (X, BITS),
    "l1_loss": (X, BITS * 100),
    "smooth_l1_loss": (X, BITS),
    "huber_loss": (X, BITS * 100),
    "poisson_nll_loss": (X, BITS * 100),
    "binary_cross_entropy": (P, BITS),
    "binary_cross_entropy_with_logits": (X, BITS * 2),
    "multilabel_soft_margin_loss": (X, BITS),
    "soft_margin_loss": (X, SIGNS),
    "hinge_embedding_loss": (X, SIGNS),
    "kl_div": (np.log(P), BITS),
}


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # torch about kl_div's mean
def test_losses_of_whole_targets(dtype):
    for name, (x, target) in TARGETS.items():
        target = target.astype(dtype)
        want = getattr(F, name)(torch.tensor(x), torch.tensor(target.astype(float)))
        got = getattr(losses, name)(jnp.asarray(x, jnp.float32), target)
        np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=name)
        with pytest.raises(RuntimeError, match="floating point"):
            getattr(losses, name)(target, x)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int64"])
def test_a_class_is_the_number_it_says(dtype):
    """156 in uint8 has the bits of -100, the mark of ignored labels; int8 has no class 200."""
    most = min(299, np.iinfo(dtype).max)
    labels = np.array([0, 1, 100, 127, min(156, most), most]).astype(dtype)
    logits, meant = torch.tensor(LOGITS), torch.tensor(labels.astype(np.int64))
    for name in ("cross_entropy", "nll_loss", "multi_margin_loss"):
        want = getattr(F, name)(logits, meant, reduction="none")
        loss = jax.jit(getattr(losses, name), static_argnames="reduction")
        got = loss(LOGITS.astype("f"), labels, reduction="none")
        np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=name)
    rows = nn.Embedding(300, 2, padding_idx=200, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(rows(labels), rows.embedding[...][labels.astype(int)])


def test_padding_with_a_value_that_the_dtype_has_not():
    picture = jnp.ones((1, 2, 1), jnp.uint8)
    for value in (-1, 0.5, 256):
        with pytest.raises(ValueError, match="is none of uint8"):
            nn.pad(picture, [(1, 1)], value=value)


def test_a_whole_affine_map():
    theta = np.array([[[2, 0, 1], [0, 1, 0]]])
    want = F.affine_grid(torch.tensor(theta).float(), [1, 1, 3, 4], align_corners=False)
    np.testing.assert_allclose(nn.affine_grid(theta, (1, 3, 4, 1)), want, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int64", "uint32", "uint64"])
def test_a_number_beyond_32_bits_is_no_class(dtype):
    """Its lower 32 bits are 1 or -100, a class and the mark."""
    for number in (2**32 + 1, 2**32 - 100):
        if number <= np.iinfo(dtype).max:
            with pytest.raises(IndexError, match="out of bounds"):
                losses.cross_entropy(jnp.zeros((1, 3)), np.array([number], dtype))
            with pytest.raises(IndexError, match="rows 0 to 2"):
                nn.Embedding(3, 1, rngs=nnx.Rngs(0))(np.array([number], dtype))


def test_many_pixels_in_half_precision():
    """65,536 pixels are more than float16 can count; torch sums in float32."""
    logits, labels = np.zeros((1, 256, 256, 2), np.float16), np.zeros((1, 256, 256), np.uint8)
    want = F.cross_entropy(
        torch.tensor(logits).float().movedim(-1, 1), torch.tensor(labels).long()
    )
    np.testing.assert_allclose(losses.cross_entropy(logits, labels), want, rtol=1e-3)
    mask = np.ones((1, 256, 256, 1), np.float16)
    assert losses.dice_loss(mask, mask) == 0
    picture = np.full((1, 32, 32, 1), 255, np.float16)
    assert nn.avg_pool(jnp.asarray(picture), 32).item() == 255


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_ctc_in_half_precision_and_small_lengths(dtype):
    log_probs = jax.nn.log_softmax(jnp.asarray(rng.standard_normal((6, 2, 5)), dtype))
    targets, lengths = np.array([[1, 2], [3, 3]]), np.array([6, 6])
    wide = torch.tensor(np.asarray(log_probs, np.float32)).log_softmax(-1)
    want = F.ctc_loss(wide, *map(torch.tensor, (targets, lengths, np.array([2, 2]))))
    got = losses.ctc_loss(
        log_probs, targets.astype("int8"), lengths.astype("uint8"), np.array([2, 2], "int8")
    )
    np.testing.assert_allclose(float(got), want, rtol=2e-2)
