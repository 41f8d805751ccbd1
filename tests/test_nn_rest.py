"""The rarer layers and functions against torch's in float64: outputs and the gradients of every
input and parameter.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from dlwp_jax import losses, nn, parity

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same numbers, whichever tests ran before it."""
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


def drawn(*shape):
    return rng.standard_normal(shape)


def moved(x):
    """Channels first to channels last."""
    return np.moveaxis(np.asarray(x), 1, -1)


X, Y = drawn(3, 5), drawn(3, 5)
WITH_ZERO = X * np.array([[1.0], [0.0], [1.0]])
IMAGE, VOLUME, SEQUENCE = drawn(2, 4, 6, 7), drawn(2, 2, 5, 6, 7), drawn(2, 3, 9)
WINDOWS = {"kernel_size": (2, 3), "dilation": (1, 2), "padding": (1, 2), "stride": (2, 1)}
COLUMNS = drawn(2, 12, 4 * 7)
SAMPLES, SAMPLES3 = rng.random((2, 4, 2)), rng.random((2, 2, 3))
TABLE, BAGS, FLAT = drawn(6, 3), rng.integers(0, 6, (4, 3)), rng.integers(0, 6, 7)
OFFSETS, FACTORS = np.array([0, 3, 3, 5]), drawn(4, 3)
POOL = {"window": 3, "stride": 2, "padding": 1, "dilation": 1, "ceil_mode": True}


def pooled(x, pool, unpool, **options):
    """Maxima and, from them, the array with its maxima alone."""
    y, places = pool(x, return_indices=True, **options)
    return y, unpool(y, places)


def with_kernel(options):
    return {
        "kernel_size": options["window"],
        **{k: v for k, v in options.items() if k != "window"},
    }


def pool_case(n, x):
    torchs = getattr(F, f"max_pool{n}d"), getattr(F, f"max_unpool{n}d")
    size = x.shape[2:]

    def ours(x):
        def back(y, places):
            return nn.max_unpool(y, places, 3, 2, 1, size)

        return pooled(x, nn.max_pool, back, **POOL)

    def theirs(x):
        def back(y, places):
            return torchs[1](y, places, 3, 2, 1, size)

        return pooled(x, torchs[0], back, **with_kernel(POOL))

    return ours, theirs, [x]


def rows(unfolded):
    """The windows of torch's array, `[N C L]`, as ours has them."""
    return unfolded.swapaxes(1, 2)


# name -> ours, torch's, inputs; those in IMAGES are turned to channels last for ours
CASES = {
    "normalize": (nn.normalize, F.normalize, [WITH_ZERO]),
    "vector_norm": (
        lambda x: nn.vector_norm(x, dim=1),
        lambda x: torch.linalg.vector_norm(x, dim=1),
        [WITH_ZERO],
    ),
    "vector_norm, all": (nn.vector_norm, torch.linalg.vector_norm, [0 * X]),
    "normalize p": (lambda x: nn.normalize(x, 3.0, 0), lambda x: F.normalize(x, 3.0, 0), [X]),
    "cosine": (nn.cosine_similarity, F.cosine_similarity, [WITH_ZERO, Y]),
    "cosine dim": (nn.CosineSimilarity(0, 2.0), torch.nn.CosineSimilarity(0, 2.0), [X, Y]),
    "pdist": (nn.pdist, F.pdist, [X]),
    "pdist 1.5": (lambda x: nn.pdist(x, 1.5), lambda x: F.pdist(x, 1.5), [X]),
    "shuffle": (nn.ChannelShuffle(2), torch.nn.ChannelShuffle(2), [IMAGE]),
    "response": (
        nn.LocalResponseNorm(3, 0.5, 0.6, 2.0),
        torch.nn.LocalResponseNorm(3, 0.5, 0.6, 2.0),
        [IMAGE],
    ),
    "response even": (
        lambda x: nn.local_response_norm(x, 2, 0.5),
        lambda x: F.local_response_norm(x, 2, 0.5),
        [SEQUENCE],
    ),
    "group_norm": (
        lambda x: nn.group_norm(x, 2, jnp.arange(4.0), jnp.ones(4)),
        lambda x: F.group_norm(x, 2, torch.arange(4.0).double(), torch.ones(4).double()),
        [IMAGE],
    ),
    "instance_norm": (nn.instance_norm, F.instance_norm, [IMAGE]),
    "instance_norm of running": (
        lambda x: nn.instance_norm(x, jnp.ones(4), jnp.full(4, 2.0), use_input_stats=False),
        lambda x: F.instance_norm(
            x, torch.ones(4).double(), torch.full((4,), 2.0).double(), use_input_stats=False
        ),
        [IMAGE],
    ),
    "rms_norm": (lambda x: nn.rms_norm(x, 5), lambda x: F.rms_norm(x, (5,)), [X]),
    "unfold": (nn.Unfold(**WINDOWS), lambda x: rows(F.unfold(x, **WINDOWS)), [IMAGE]),
    "fold": (
        nn.Fold((6, 7), **WINDOWS),
        lambda x: F.fold(rows(x), (6, 7), **WINDOWS),
        [rows(COLUMNS)],
    ),
    "max_pool1d": pool_case(1, SEQUENCE),
    "max_pool2d": pool_case(2, IMAGE),
    "max_pool3d": pool_case(3, VOLUME),
    "max_pool dilated": (
        nn.MaxPool2d(2, 1, 1, 2, return_indices=True),
        torch.nn.MaxPool2d(2, 1, 1, 2, return_indices=True),
        [IMAGE],
    ),
    "adaptive": (
        nn.AdaptiveMaxPool2d((4, 3), return_indices=True),
        torch.nn.AdaptiveMaxPool2d((4, 3), return_indices=True),
        [IMAGE],
    ),
    "fractional 2d": (
        lambda x: nn.fractional_max_pool(x, (2, 3), (3, 4), None, True, SAMPLES),
        lambda x: F.fractional_max_pool2d(x, (2, 3), (3, 4), None, True, torch.tensor(SAMPLES)),
        [IMAGE],
    ),
    "fractional 3d": (
        lambda x: nn.fractional_max_pool(x, 2, None, 0.5, True, SAMPLES3),
        lambda x: F.fractional_max_pool3d(x, 2, None, 0.5, True, torch.tensor(SAMPLES3)),
        [VOLUME],
    ),
    "triplet": (
        lambda a, b, c: losses.triplet_margin_with_distance_loss(a, b, c, swap=True),
        lambda a, b, c: F.triplet_margin_with_distance_loss(a, b, c, swap=True),
        [X, Y, drawn(3, 5)],
    ),
    "triplet by cosine": (
        lambda a, b, c: losses.triplet_margin_with_distance_loss(
            a, b, c, distance_function=nn.cosine_similarity, margin=0.5, reduction="none"
        ),
        lambda a, b, c: F.triplet_margin_with_distance_loss(
            a, b, c, distance_function=F.cosine_similarity, margin=0.5, reduction="none"
        ),
        [X, Y, drawn(3, 5)],
    ),
}
for p in (2.0, 1.0, 3.0, 0.5, np.inf):
    CASES[f"distance {p}"] = (
        nn.PairwiseDistance(p, keepdim=True),
        torch.nn.PairwiseDistance(p, keepdim=True),
        [X, Y],
    )
for mode in ("sum", "mean", "max"):
    CASES[f"bag {mode}"] = (
        lambda w, m=mode: nn.embedding_bag(BAGS, w, mode=m, padding_idx=2),
        lambda w, m=mode: F.embedding_bag(torch.tensor(BAGS), w, mode=m, padding_idx=2),
        [TABLE],
    )
    CASES[f"bag {mode}, offsets"] = (
        lambda w, m=mode: nn.embedding_bag(FLAT, w, OFFSETS, m),
        lambda w, m=mode: F.embedding_bag(torch.tensor(FLAT), w, torch.tensor(OFFSETS), mode=m),
        [TABLE],
    )
CASES["bag, last offset"] = (
    lambda w: nn.embedding_bag(FLAT, w, OFFSETS, "sum", include_last_offset=True),
    lambda w: F.embedding_bag(
        torch.tensor(FLAT), w, torch.tensor(OFFSETS), mode="sum", include_last_offset=True
    ),
    [TABLE],
)
CASES["bag, factors"] = (
    lambda w, f: nn.embedding_bag(BAGS, w, None, "sum", f),
    lambda w, f: F.embedding_bag(torch.tensor(BAGS), w, mode="sum", per_sample_weights=f),
    [TABLE, FACTORS],
)


def is_images(x):
    return x.ndim > 2 and x.shape != rows(COLUMNS).shape


def torchs(function, inputs):
    given = [torch.tensor(x, requires_grad=True) for x in inputs]
    outputs = jax.tree.leaves(function(*given))
    floating = [y for y in outputs if y.is_floating_point()]
    cotangents = [drawn(*y.shape) for y in floating]
    torch.autograd.backward(floating, list(map(torch.tensor, cotangents)))
    return [y.detach().numpy() for y in outputs], [x.grad.numpy() for x in given], cotangents


def turned(name, array):
    """An array of torch's as ours is laid out."""
    plain = name == "unfold" and array.shape[-1] != 7  # its windows stand in the middle here
    return moved(array) if array.ndim > 2 and is_images(array) and not plain else array


def test_every_function_is_torchs_with_its_gradients():
    want, given = {}, {}
    for name, (_, theirs, inputs) in CASES.items():
        want[name] = torchs(theirs, inputs)
        cotangents = [turned(name, c) for c in want[name][2]]
        given[name] = [turned(name, x) for x in inputs], cotangents

    @jax.jit  # one program for all of them
    def run(given):
        def one(name):
            inputs, cotangents = given[name]
            y, pull = jax.vjp(lambda *xs: CASES[name][0](*xs), *inputs)
            found = jax.tree.map(lambda a: np.zeros(a.shape, jax.dtypes.float0), y)
            rest = iter(cotangents)
            leaves = [
                next(rest) if jnp.issubdtype(a.dtype, jnp.floating) else zero
                for a, zero in zip(jax.tree.leaves(y), jax.tree.leaves(found), strict=True)
            ]
            return y, pull(jax.tree.unflatten(jax.tree.structure(y), leaves))

        return {name: one(name) for name in given}

    with jax.enable_x64(True):
        results = run(given)
    for name, (outputs, gradients, _) in want.items():
        y, found = results[name]
        pairs = [*zip(jax.tree.leaves(y), outputs, strict=True)]
        pairs += zip(found, gradients, strict=True)
        for got, right in pairs:
            np.testing.assert_allclose(
                got, turned(name, right), rtol=1e-9, atol=1e-9, err_msg=name
            )


def test_equal_values_and_nan_in_pooling_with_places():
    x = rng.integers(0, 3, (1, 2, 8, 8)).astype(np.float32)
    x[0, 0, 2, 3] = x[0, 0, 3, 3] = np.nan
    want = F.max_pool2d(torch.tensor(x), 3, 2, 1, return_indices=True)
    pool = jax.jit(
        functools.partial(nn.max_pool, return_indices=True), static_argnums=(1, 2, 3)
    )
    got = pool(moved(x), 3, 2, 1)
    for value, right in zip(got, want, strict=True):
        np.testing.assert_array_equal(value, moved(right))
    x[:] = -np.inf
    want = F.max_pool2d(torch.tensor(x), 3, 2, 1, return_indices=True)[1]
    got = pool(moved(x), 3, 2, 1)[1]
    np.testing.assert_array_equal(got, moved(want))
    image = moved(IMAGE)
    single, whole = (pool(a, (2, 2))[1] for a in (image[0], image))
    np.testing.assert_array_equal(single, whole[0])


def test_unpooling_refuses_places_outside_and_sizes_that_do_not_fit():
    y = jnp.ones((1, 2, 2, 1))
    with pytest.raises(RuntimeError, match="from 99 to 99"):
        nn.max_unpool(y, jnp.full(y.shape, 99), 2)
    with pytest.raises(ValueError, match="output_size"):
        nn.max_unpool(y, jnp.zeros(y.shape, int), 2, output_size=(9, 9))


def test_pooling_of_one_picture_with_an_int_for_all_axes():
    picture, volume, *samples = (
        x.astype(np.float32) for x in (IMAGE[0], VOLUME[0], SAMPLES[:1], SAMPLES3[:1])
    )
    cases = (
        (F.fractional_max_pool2d, picture, 3, samples[0]),
        (F.fractional_max_pool3d, volume, (2, 3, 3), samples[1]),
    )
    for pool, x, size, places in cases:
        want = pool(torch.tensor(x), 2, size, _random_samples=torch.tensor(places))
        x = np.moveaxis(x, 0, -1)
        pooled = jax.jit(
            functools.partial(nn.fractional_max_pool, random_samples=places),
            static_argnums=(1, 2),
        )
        got = pooled(x, 2, size)
        np.testing.assert_array_equal(np.moveaxis(got, -1, 0), want)
    picture = torch.tensor(picture)
    theirs, places = F.max_pool2d(picture, 2, return_indices=True)
    want = F.max_unpool2d(theirs, places, 2, output_size=(6, 7))
    ours = [np.moveaxis(x.numpy(), 0, -1) for x in (theirs, places)]
    unpool = functools.partial(nn.max_unpool, output_size=(6, 7))
    for size in (2, (2, 2)):
        got = jax.jit(unpool, static_argnums=2)(*ours, size)
        np.testing.assert_array_equal(np.moveaxis(got, -1, 0), want)
    got = nn.MaxUnpool2d(2)(*ours, output_size=(6, 7))
    np.testing.assert_array_equal(np.moveaxis(got, -1, 0), want)


LAYERS = {
    "Bilinear": ((3, 4, 2), [drawn(5, 3), drawn(5, 4)]),
    "EmbeddingBag": ((6, 3), [BAGS]),
    "SyncBatchNorm": None,
}


@pytest.mark.parametrize("name", ["Bilinear", "EmbeddingBag"])
def test_layers_with_weights_by_parity(name):
    sizes, inputs = LAYERS[name]
    theirs = getattr(torch.nn, name)(*sizes)
    ours = getattr(nn, name)(*sizes, rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs)
    report = parity.compare(theirs, ours, *inputs, loaded=loaded, double=True)
    report.raise_if_different()


@pytest.mark.parametrize("head_bias", [True, False])
def test_adaptive_softmax(head_bias):
    options = {"div_value": 2.0, "head_bias": head_bias}
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7], **options)
    ours = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7], **options, rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs)
    x, target = drawn(6, 8).astype(np.float32), np.array([0, 2, 3, 6, 7, 11])
    report = parity.compare(theirs, ours, x, target, loaded=loaded)
    report.raise_if_different()
    given = torch.tensor(x)
    np.testing.assert_allclose(ours.log_prob(x), theirs.log_prob(given).detach(), atol=1e-5)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(given))
    with pytest.raises(RuntimeError, match="classes 0 to 11"):
        ours(x[:1], np.array([12]))


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_alpha_dropout_has_torchs_two_values_and_their_shares(p):
    x = np.ones((200, 50, 2), np.float32)
    torch.manual_seed(0)
    want = F.alpha_dropout(torch.tensor(x), p, training=True).numpy()
    got = nn.AlphaDropout(p, rngs=nnx.Rngs(0))(jnp.asarray(x))
    np.testing.assert_allclose(np.unique(got), np.unique(want), rtol=1e-6)
    assert abs(np.mean(got) - want.mean()) < 0.05
    layer = nn.FeatureAlphaDropout(p, rngs=nnx.Rngs(0))
    channels = np.asarray(layer(jnp.asarray(moved(x))))
    assert (channels == channels[:, :1]).all()
    np.testing.assert_allclose(np.unique(channels), np.unique(want), rtol=1e-6)
    layer.eval()
    np.testing.assert_array_equal(layer(jnp.asarray(x)), x)


def test_fractional_pooling_draws_windows_that_cover_the_image():
    layer = nn.FractionalMaxPool2d(2, output_ratio=(0.5, 0.6), rngs=nnx.Rngs(0))
    x = jnp.asarray(moved(IMAGE))
    first, second = nnx.jit(lambda layer: (layer(x), layer(x)))(layer)
    theirs = torch.nn.FractionalMaxPool2d(2, output_ratio=(0.5, 0.6))(torch.tensor(IMAGE))
    assert first.shape == moved(theirs).shape
    assert not np.array_equal(first, second)
    assert np.isin(first, x).all()


def test_containers_of_parameters_go_both_ways():
    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.several = torch.nn.ParameterList([torch.randn(2), torch.randn(2)])
            self.named = torch.nn.ParameterDict({"b": torch.randn(2), "a": torch.randn(2)})
            self.layers = torch.nn.ModuleDict({"out": torch.nn.Linear(2, 2)})

        def forward(self, x):
            return self.layers["out"](x * self.several[0] + self.named["a"]) * self.several[1]

    class Ours(nnx.Module):
        def __init__(self, *, rngs):
            self.several = nn.ParameterList([jnp.zeros(2), jnp.zeros(2)])
            self.named = nn.ParameterDict({"b": jnp.zeros(2), "a": jnp.zeros(2)})
            self.layers = nn.ModuleDict({"out": nn.Linear(2, 2, rngs=rngs)})

        def __call__(self, x):
            x = x * self.several[0][...] + self.named["a"][...]
            return self.layers["out"](x) * self.several[1][...]

    theirs, ours = Theirs(), Ours(rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs)
    parity.compare(theirs, ours, drawn(3, 2), loaded=loaded).raise_if_different()
    back = parity.to_torch(ours)
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(back[name], value)


def test_sync_batch_norm_is_batch_norm_of_the_whole_batch():
    # Torch's own runs on a GPU alone; BatchNorm2d computes the same on one device.
    theirs, ours = torch.nn.BatchNorm2d(4), nn.SyncBatchNorm(4)
    loaded = parity.load_torch(ours, theirs)
    parity.compare(theirs, ours, IMAGE, loaded=loaded, train=True).raise_if_different()


def test_gumbel_softmax_draws_by_the_given_probabilities():
    logits = np.log(np.array([0.1, 0.2, 0.7], np.float32))
    many = np.tile(logits, (20_000, 1))
    draw = jax.jit(nn.gumbel_softmax, static_argnames=("tau", "hard"))
    hard = np.asarray(draw(many, tau=0.5, hard=True, key=jax.random.key(0)))
    np.testing.assert_allclose(hard.mean(0), [0.1, 0.2, 0.7], atol=0.02)
    torch.manual_seed(0)
    want = F.gumbel_softmax(torch.tensor(many), tau=2.0)
    soft = np.asarray(draw(many, tau=2.0, key=jax.random.key(1)))
    np.testing.assert_allclose(soft.mean(0), want.mean(0), atol=0.02)
    np.testing.assert_allclose(soft.std(0), want.std(0), atol=0.02)
    slope = jax.grad(lambda x: draw(x, hard=True, key=jax.random.key(0))[0, 0])
    assert np.abs(slope(many[:1])).max() > 0  # straight through


# --- weights that are computed


def twins(apply, **options):
    """A convolution and a Linear in both, their weights computed."""
    norm = getattr(torch.nn.utils.parametrizations, apply)
    theirs = torch.nn.Sequential(
        norm(torch.nn.Conv2d(3, 4, 3), **options),
        torch.nn.Flatten(),
        norm(torch.nn.Linear(16, 2)),
    )
    rngs = nnx.Rngs(0)
    more = {"rngs": rngs} if apply == "spectral_norm" else {}
    norm = getattr(nn.utils, apply)
    ours = nn.Sequential(
        norm(nn.Conv2d(3, 4, 3, rngs=rngs), **options, **more),
        nn.Flatten(),
        norm(nn.Linear(16, 2, rngs=rngs), **more),
    )
    return theirs, ours


@pytest.mark.parametrize(
    ("apply", "options"),
    [
        ("weight_norm", {}),
        ("weight_norm", {"dim": 2}),
        ("weight_norm", {"dim": None}),
        ("spectral_norm", {}),
        ("spectral_norm", {"n_power_iterations": 3, "dim": 1}),
    ],
)
def test_computed_weights_are_torchs_and_move_alike(apply, options):
    theirs, ours = twins(apply, **options)
    loaded = parity.load_torch(ours, theirs)
    x = drawn(2, 3, 4, 4).astype(np.float32)
    report = parity.compare(theirs, ours, x, loaded=loaded, train=True, double=True)
    report.raise_if_different()
    for name, value in parity.to_torch(ours).items():
        np.testing.assert_array_equal(value, theirs.state_dict()[name].detach())


@pytest.mark.parametrize(
    ("apply", "dim"),
    [("weight_norm", 0), ("weight_norm", 1), ("weight_norm", -1), ("spectral_norm", -1)],
)
def test_computed_weights_of_attention_are_torchs(apply, dim):
    norm, ours_norm = getattr(torch.nn.utils.parametrizations, apply), getattr(nn.utils, apply)
    more = {"rngs": nnx.Rngs(1)} if apply == "spectral_norm" else {}
    theirs = torch.nn.MultiheadAttention(4, 2, batch_first=True)
    ours = nn.MultiheadAttention(4, 2, batch_first=True, rngs=nnx.Rngs(0))
    norm(theirs, "in_proj_weight", dim=dim)
    ours_norm(ours, "in_proj_kernel", dim=dim, **more)
    loaded = parity.load_torch(ours, theirs)
    for name, value in parity.to_torch(ours).items():
        np.testing.assert_array_equal(value, theirs.state_dict()[name].detach())
    x = [drawn(2, 3, 4).astype(np.float32)] * 3
    parity.compare(theirs, ours, *x, loaded=loaded).raise_if_different()


def test_an_axis_that_a_weight_lacks_is_refused():
    """As by torch, whose error is an IndexError too."""
    with pytest.raises(IndexError):
        torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2), dim=2)
    with pytest.raises(IndexError):
        nn.utils.weight_norm(nn.Linear(3, 2, rngs=nnx.Rngs(0)), dim=2)


def test_a_parametrization_of_ones_own_and_back():
    class Symmetric(torch.nn.Module):
        def forward(self, w):
            return w.triu() + w.triu(1).T

    theirs = torch.nn.Linear(3, 3)
    ours = nn.Linear(3, 3, rngs=nnx.Rngs(0))
    torch.nn.utils.parametrize.register_parametrization(theirs, "weight", Symmetric())
    # torch's weight is the kernel transposed, and so its upper half is the lower here.
    nn.utils.register_parametrization(ours, "kernel", lambda w: jnp.tril(w) + jnp.tril(w, -1).T)
    loaded = parity.load_torch(ours, theirs)
    parity.compare(theirs, ours, X[:, :3], loaded=loaded).raise_if_different()
    for keep in (True, False):
        again = nnx.clone(ours)
        nn.utils.remove_parametrizations(again, "kernel", keep)
        folded = torch.nn.Linear(3, 3)
        weight = theirs.weight if keep else theirs.parametrizations.weight.original
        folded.weight.data = weight.data
        np.testing.assert_allclose(again.kernel[...], folded.weight.detach().T, rtol=1e-6)
        assert type(again) is nn.Linear
    with pytest.raises(ValueError, match="no parameter"):
        nn.utils.register_parametrization(ours, "weights", jnp.tril)


def test_parameters_as_a_vector_and_back():
    model = nn.Sequential(nn.Linear(2, 3, rngs=nnx.Rngs(0)), nn.Linear(3, 1, rngs=nnx.Rngs(1)))
    params = nnx.state(model, nnx.Param)
    vector = nn.utils.parameters_to_vector(params)
    theirs = torch.nn.utils.parameters_to_vector(
        [torch.tensor(np.asarray(leaf)) for leaf in jax.tree.leaves(params)]
    )
    np.testing.assert_array_equal(vector, theirs)
    back = nn.utils.vector_to_parameters(2 * vector, params)
    for leaf, old in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(leaf, 2 * old)
