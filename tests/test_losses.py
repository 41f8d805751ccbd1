"""Every loss against torch.nn.functional: value and gradient, eager and compiled, kinks
included.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dlwp_jax import losses

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype("f")


def uniform(*shape):
    return rng.uniform(0.01, 0.99, shape).astype("f")


def signs(*shape):
    return rng.choice([-1.0, 1.0], shape).astype("f")


def classes(*shape, n=4):
    return rng.integers(0, n, shape)


def probabilities(*shape):
    p = rng.uniform(size=shape)
    return (p / p.sum(-1, keepdims=True)).astype("f")


def log_probabilities(*shape):
    return np.log(probabilities(*shape))


X, Y = normal(3, 4), normal(3, 4)
LOGITS, CLASSES = normal(5, 4), classes(5)
LOGITS_2D, CLASSES_2D = normal(2, 3, 5, 4), classes(2, 3, 5)
IGNORED = np.where(rng.uniform(size=CLASSES_2D.shape) < 0.3, -100, CLASSES_2D)
W4 = uniform(4)
KINK = np.array([-2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 2.0], "f")  # d = 0, +-beta, +-margin
ZERO = np.zeros_like(KINK)

# (name, arrays, options). All floating arrays are differentiated, but for FIXED_TARGET.
TABLE = [
    ("mse_loss", (X, Y), {}),
    ("mse_loss", (X, Y), {"weight": uniform(3, 4)}),
    ("l1_loss", (X, Y), {}),
    ("l1_loss", (X, Y), {"weight": uniform(3, 4)}),
    ("l1_loss", (KINK, ZERO), {}),
    ("smooth_l1_loss", (X, Y), {}),
    ("smooth_l1_loss", (X, Y), {"beta": 0.3}),
    ("smooth_l1_loss", (KINK, ZERO), {"beta": 0.0}),
    ("smooth_l1_loss", (KINK, ZERO), {"beta": 1.0}),
    ("huber_loss", (X, Y), {}),
    ("huber_loss", (X, Y), {"delta": 0.5, "weight": uniform(3, 4)}),
    ("huber_loss", (KINK, ZERO), {"delta": 2.0}),
    ("poisson_nll_loss", (X, rng.poisson(2.0, (3, 4)).astype("f")), {}),
    ("poisson_nll_loss", (X, rng.poisson(2.0, (3, 4)).astype("f")), {"full": True}),
    (
        "poisson_nll_loss",
        (uniform(3, 4), rng.poisson(2.0, (3, 4)).astype("f")),
        {"log_input": False, "eps": 0.1},
    ),
    ("gaussian_nll_loss", (X, Y, uniform(3, 4)), {}),
    ("gaussian_nll_loss", (X, Y, uniform(3, 1)), {"full": True}),
    ("gaussian_nll_loss", (X, Y, uniform(3)), {"eps": 0.4}),  # some variances are clamped
    ("gaussian_nll_loss", (X, Y), {"var": 0.5}),
    ("nll_loss", (LOGITS, CLASSES), {}),
    ("nll_loss", (LOGITS, CLASSES), {"weight": W4, "ignore_index": 2}),
    ("nll_loss", (LOGITS_2D, IGNORED), {"weight": W4}),
    ("nll_loss", (normal(4), np.array(3)), {}),
    ("cross_entropy", (LOGITS, CLASSES), {}),
    ("cross_entropy", (LOGITS, CLASSES), {"weight": W4}),
    (
        "cross_entropy",
        (LOGITS, CLASSES),
        {"weight": W4, "label_smoothing": 0.2, "ignore_index": 1},
    ),
    ("cross_entropy", (LOGITS_2D, IGNORED), {}),
    ("cross_entropy", (LOGITS_2D, IGNORED), {"weight": W4, "label_smoothing": 0.1}),
    ("cross_entropy", (LOGITS_2D, IGNORED), {"label_smoothing": 1.0}),
    ("cross_entropy", (normal(4), np.array(2)), {}),
    ("cross_entropy", (100 * normal(5, 4), CLASSES), {}),
    ("cross_entropy", (LOGITS, np.full(5, -100)), {}),  # nothing counts: nan
    ("cross_entropy", (LOGITS, probabilities(5, 4)), {}),
    (
        "cross_entropy",
        (LOGITS_2D, probabilities(2, 3, 5, 4)),
        {"weight": W4, "label_smoothing": 0.3},
    ),
    ("binary_cross_entropy", (uniform(3, 4), uniform(3, 4)), {}),
    ("binary_cross_entropy", (uniform(3, 4), uniform(3, 4)), {"weight": W4}),
    ("binary_cross_entropy_with_logits", (X, uniform(3, 4)), {}),
    (
        "binary_cross_entropy_with_logits",
        (X, uniform(3, 4)),
        {"weight": W4, "pos_weight": 3 * W4},
    ),
    ("binary_cross_entropy_with_logits", (1e3 * KINK, uniform(8)), {}),
    ("kl_div", (log_probabilities(3, 4), probabilities(3, 4)), {}),
    ("kl_div", (log_probabilities(3, 4), log_probabilities(3, 4)), {"log_target": True}),
    ("hinge_embedding_loss", (X, signs(3, 4)), {}),
    ("hinge_embedding_loss", (KINK, -np.ones_like(KINK)), {"margin": 0.5}),
    ("margin_ranking_loss", (X, Y, signs(3, 4)), {}),
    ("margin_ranking_loss", (KINK, ZERO, np.ones_like(KINK)), {"margin": 0.5}),
    ("soft_margin_loss", (X, signs(3, 4)), {}),
    ("multi_margin_loss", (LOGITS, CLASSES), {}),
    ("multi_margin_loss", (LOGITS, CLASSES), {"p": 2, "margin": 0.5, "weight": W4}),
    (
        "multi_margin_loss",
        (np.tile([[0.0, 1.0, 1.0, 0.5]], (2, 1)).astype("f"), np.array([1, 0])),
        {},
    ),
    ("multi_margin_loss", (normal(4), np.array(1)), {}),
    ("multilabel_margin_loss", (X, np.array([[3, 0, -1, 1], [-1, 2, 2, 2], [0, 1, 2, 3]])), {}),
    (
        "multilabel_margin_loss",
        (X, np.array([[3, 3, 1, -1], [2, -1, -1, -1], [1, 0, -1, 0]])),
        {},
    ),
    (
        "multilabel_margin_loss",
        (np.array([0.0, 1.0, -1.0, 0.5], "f"), np.array([1, -1, 0, 0])),
        {},
    ),
    ("multilabel_soft_margin_loss", (X, uniform(3, 4)), {}),
    ("multilabel_soft_margin_loss", (X, uniform(3, 4)), {"weight": W4}),
    ("triplet_margin_loss", (X, Y, normal(3, 4)), {}),
    ("triplet_margin_loss", (X, Y, normal(3, 4)), {"margin": 3.0, "p": 1.0, "swap": True}),
    ("triplet_margin_loss", (X, Y, normal(3, 4)), {"p": 3.0, "eps": 0.1}),
    ("triplet_margin_loss", (X, Y, normal(3, 4)), {"p": float("inf")}),
    ("triplet_margin_loss", (X, X, X), {"eps": 0.0}),  # all distances are 0
    ("cosine_embedding_loss", (X, Y, signs(3)), {}),
    ("cosine_embedding_loss", (X, Y, -np.ones(3, "f")), {"margin": -0.5}),
    ("cosine_embedding_loss", (X, X * 0, signs(3)), {}),
    ("cosine_embedding_loss", (X[0], Y[0], np.array(1.0, "f")), {}),
]
FIXED_TARGET = {  # torch gives no gradient to these targets, or the target is a sign
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "soft_margin_loss",
    "cosine_embedding_loss",
    "poisson_nll_loss",
}
CLASS_AXIS = {"nll_loss", "cross_entropy"}


def torch_value(name, arrays, options, reduction):
    """torch's function, with the class axis moved to where torch has it."""
    options = {
        k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()
    }
    if name in CLASS_AXIS and arrays[0].ndim > 2:
        arrays = [
            a.movedim(-1, 1).contiguous() if a.ndim == arrays[0].ndim else a for a in arrays
        ]
    return getattr(F, name)(*arrays, **options, reduction=reduction)


REDUCTIONS = ("none", "mean", "sum")
NUMBERS = [[other for other, *_ in TABLE[:i]].count(name) for i, (name, *_) in enumerate(TABLE)]
IDS = [f"{name}-{number}" for (name, *_), number in zip(TABLE, NUMBERS, strict=True)]


def differentiated(name, arrays):
    moved = [i for i, a in enumerate(arrays) if a.dtype == np.float32]
    if name in FIXED_TARGET:
        moved.remove(len(arrays) - 1)
    return moved


def cotangent_like(value):
    return np.linspace(0.5, 1.5, value.size).reshape(value.shape).astype("f")


@functools.cache
def ours(name):
    """Values and gradients of all rows of one loss, in one program."""

    def of_row(options, arrays):
        def loss(*arrays, reduction="none"):
            return getattr(losses, name)(*arrays, **options, reduction=reduction)

        def weighted(*arrays):
            value = loss(*arrays)
            return jnp.sum(value * cotangent_like(value))

        gradient = jax.grad(weighted, argnums=differentiated(name, arrays))
        return {r: loss(*arrays, reduction=r) for r in REDUCTIONS}, gradient(*arrays)

    rows = [(options, arrays) for other, arrays, options in TABLE if other == name]
    every = [options for options, _ in rows]
    run = jax.jit(lambda given: list(map(of_row, every, given)))
    return run([arrays for _, arrays in rows])


@pytest.mark.parametrize("row", range(len(TABLE)), ids=IDS)
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # torch on kl_div's mean
def test_value_and_gradient(row):
    name, arrays, options = TABLE[row]
    moved = differentiated(name, arrays)
    tensors = [torch.tensor(a, requires_grad=i in moved) for i, a in enumerate(arrays)]
    expected = {r: torch_value(name, tensors, options, r) for r in REDUCTIONS}
    expected["none"].backward(torch.tensor(cotangent_like(expected["none"].detach().numpy())))
    results, grads = ours(name)[NUMBERS[row]]
    # Float32: a dozen roundings of 6e-8, relative to the terms of the sum.
    close = {"rtol": 5e-6, "atol": 1e-6}
    for reduction, value in results.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected[reduction].detach(), **close)
    for i, grad in zip(moved, grads, strict=True):
        np.testing.assert_allclose(grad, tensors[i].grad, err_msg=f"argument {i}", **close)


def test_kl_div_batchmean():
    x, y = log_probabilities(3, 2, 4), probabilities(3, 2, 4)
    expected = F.kl_div(torch.tensor(x), torch.tensor(y), reduction="batchmean")
    # One float32 sum.
    np.testing.assert_allclose(losses.kl_div(x, y, reduction="batchmean"), expected, rtol=2e-6)


@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
def test_binary_cross_entropy_at_certainty(target):
    """Probabilities of exactly 0 and 1: logarithms stop at -100, the gradient at 1e12, both
    exactly.
    """
    x, y = np.array([0.0, 1.0, 1e-20, 0.5], "f"), np.full(4, target, "f")
    tensor = torch.tensor(x, requires_grad=True)
    expected = F.binary_cross_entropy(tensor, torch.tensor(y), reduction="none")
    expected.sum().backward()
    value, grad = jax.value_and_grad(
        lambda x: losses.binary_cross_entropy(x, y, reduction="sum")
    )(jnp.asarray(x))
    # A single float32 formula.
    np.testing.assert_allclose(value, expected.sum().detach(), rtol=1e-6)
    np.testing.assert_allclose(grad, tensor.grad, rtol=1e-6)


def test_soft_margin_where_torch_overflows():
    x = jnp.array([-200.0])
    assert torch.isinf(F.soft_margin_loss(torch.tensor([-200.0]), torch.ones(1)))
    value, grad = jax.value_and_grad(losses.soft_margin_loss)(x, jnp.ones(1))
    assert (float(value), float(grad[0])) == (200.0, -1.0)


CTC = {
    "targets": np.array([[1, 2, 2], [3, 1, 0], [2, 1, 3], [1, 1, 1]]),
    "target_lengths": np.array([3, 2, 0, 3]),
}


def test_ctc_loss():
    lengths, blank = np.array([8, 6, 7, 5]), 4
    arguments = (CTC["targets"], lengths, CTC["target_lengths"])
    logits = normal(8, 4, 5)
    tensor = torch.tensor(logits, requires_grad=True)
    theirs = [
        F.ctc_loss(
            tensor.log_softmax(-1),
            *map(torch.tensor, arguments),
            blank=blank,
            reduction=reduction,
        )
        for reduction in REDUCTIONS
    ]
    theirs[1].backward()

    @jax.jit
    @jax.value_and_grad
    def ours(logits):
        return losses.ctc_loss(jax.nn.log_softmax(logits), *arguments, blank=blank)

    mean, grad = ours(logits)
    # Eight steps of float32 log-sum-exp.
    np.testing.assert_allclose(mean, theirs[1].detach(), rtol=1e-5)
    np.testing.assert_allclose(grad, tensor.grad, rtol=1e-4, atol=1e-6)

    @jax.jit
    def reduced(logits):
        log_probs, options = jax.nn.log_softmax(logits), {"blank": blank}
        return [
            losses.ctc_loss(log_probs, *arguments, **options, reduction=r) for r in REDUCTIONS
        ]

    for value, expected in zip(reduced(logits), theirs, strict=True):
        np.testing.assert_allclose(value, expected.detach(), rtol=1e-5)


def test_ctc_loss_of_the_certain_is_not_below_zero():
    """Rounding must not turn the probability 1 into more; torch gives 0 at least."""
    logits = np.full((40, 1, 5), -30.0, "f")
    labels = np.array([1, 2, 3, 4] * 5)[None]
    logits[np.arange(0, 40, 2), 0, labels[0]] = 0
    logits[1::2, 0, 0] = 0
    log_probs = jax.nn.log_softmax(jnp.asarray(logits))
    arguments = (labels, np.array([40]), np.array([20]))
    want = F.ctc_loss(torch.tensor(np.asarray(log_probs)), *map(torch.tensor, arguments))
    got = jax.jit(lambda log_probs: losses.ctc_loss(log_probs, *arguments))(log_probs)
    assert got >= 0
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_ctc_loss_of_the_impossible():
    """1 1 1 needs five steps: four are not enough, and neither is what is shorter than its
    target.
    """
    log_probs = torch.tensor(normal(8, 4, 5)).log_softmax(-1)
    arguments = (CTC["targets"], np.array([6, 1, 1, 4]), CTC["target_lengths"])
    for zero in (False, True):
        options = {"blank": 4, "reduction": "none", "zero_infinity": zero}
        theirs = F.ctc_loss(log_probs, *map(torch.tensor, arguments), **options)
        ours = jax.jit(lambda p, o=options: losses.ctc_loss(p, *arguments, **o))
        np.testing.assert_allclose(
            ours(log_probs.numpy()), theirs, rtol=1e-5
        )  # float32 log-sum-exp
    grad = jax.jit(jax.grad(lambda p: losses.ctc_loss(p, *arguments, blank=4)))(
        jnp.asarray(log_probs)
    )
    assert np.all(np.isfinite(grad))


def test_dice_is_the_books():
    """Chapter 13's formula, written down in torch; booleans are masks too."""
    p, mask = uniform(3, 8, 8, 1), rng.uniform(size=(3, 8, 8, 1)) < 0.3
    mask[1] = False
    t, y = torch.tensor(p, requires_grad=True), torch.tensor(mask.astype("f"))
    overlap = (t * y).sum(dim=[1, 2, 3])
    expected = 1 - (2 * overlap + 1) / (t.sum(dim=[1, 2, 3]) + y.sum(dim=[1, 2, 3]) + 1)
    expected.mean().backward()
    # Sums of 64 float32 numbers.
    np.testing.assert_allclose(
        losses.dice_loss(p, mask, reduction="none"), expected.detach(), rtol=2e-6
    )
    np.testing.assert_allclose(
        jax.grad(losses.dice_loss)(jnp.asarray(p), mask), t.grad, rtol=1e-5, atol=1e-8
    )


WRONG = [
    (
        lambda: losses.mse_loss(X, Y[:, :1]),
        ValueError,
        r"target has shape \(3, 1\), but input has \(3, 4\)",
    ),
    (lambda: losses.mse_loss(X, Y, reduction="avg"), ValueError, "reduction='avg'"),
    (lambda: losses.mse_loss(CLASSES, CLASSES), RuntimeError, "input has dtype int"),
    (lambda: losses.huber_loss(X, Y, delta=0.0), RuntimeError, "delta=0.0"),
    (lambda: losses.smooth_l1_loss(X, Y, beta=-1.0), RuntimeError, "beta=-1.0"),
    (lambda: losses.gaussian_nll_loss(X, Y, -uniform(3, 4)), ValueError, "negative"),
    (
        lambda: losses.gaussian_nll_loss(X, Y, uniform(4, 3)),
        ValueError,
        r"var has shape \(4, 3\)",
    ),
    (lambda: losses.cross_entropy(LOGITS.T, CLASSES), ValueError, "last axis of input"),
    (
        lambda: losses.cross_entropy(LOGITS, CLASSES + 1.0),
        RuntimeError,
        "dtype float64; it takes integers",
    ),
    (
        lambda: losses.cross_entropy(LOGITS, CLASSES + 4),
        IndexError,
        "out of bounds for 4 classes",
    ),
    (lambda: losses.nll_loss(LOGITS, CLASSES - 9), IndexError, "out of bounds"),
    (
        lambda: losses.cross_entropy(LOGITS, CLASSES, weight=W4[:3]),
        ValueError,
        r"weight has shape \(3,\)",
    ),
    (
        lambda: losses.cross_entropy(LOGITS, CLASSES, label_smoothing=1.1),
        RuntimeError,
        "label_smoothing=1.1",
    ),
    (
        lambda: losses.cross_entropy(LOGITS, probabilities(5, 4), ignore_index=1),
        RuntimeError,
        "ignore_index",
    ),
    (lambda: losses.binary_cross_entropy(X, uniform(3, 4)), RuntimeError, "outside 0 .. 1"),
    (
        lambda: losses.binary_cross_entropy(uniform(3), uniform(3), weight=W4),
        ValueError,
        "shape",
    ),
    (lambda: losses.multi_margin_loss(LOGITS, CLASSES, p=3), ValueError, "p=3"),
    (lambda: losses.multi_margin_loss(LOGITS, CLASSES + 9), IndexError, "out of bounds"),
    (lambda: losses.multilabel_margin_loss(X, np.full((3, 4), 7)), IndexError, "out of bounds"),
    (lambda: losses.triplet_margin_loss(X, Y, X, margin=0.0), ValueError, "margin=0.0"),
    (
        lambda: losses.cosine_embedding_loss(X, Y, signs(4)),
        ValueError,
        r"target has shape \(4,\)",
    ),
    (
        lambda: losses.ctc_loss(normal(3, 2, 4), classes(3, 2), [3, 3], [1, 1]),
        ValueError,
        "must be",
    ),
    (
        lambda: losses.ctc_loss(normal(3, 2, 4), classes(2, 3), [3, 4], [1, 1]),
        RuntimeError,
        "input_lengths",
    ),
    (
        lambda: losses.ctc_loss(normal(3, 2, 4), classes(2, 3) + 4, [3, 3], [1, 1]),
        IndexError,
        "out of bounds",
    ),
    (
        lambda: losses.ctc_loss(normal(3, 2, 4), classes(2, 3), [3, 3], [1, 1], blank=4),
        ValueError,
        "blank=4",
    ),
    (lambda: losses.dice_loss(uniform(3), uniform(3)), ValueError, "one mask for each"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_use(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "loss", [losses.cross_entropy, losses.nll_loss, losses.multi_margin_loss]
)
@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_wrong_class_under_jit_is_nan(loss, wrong):
    """Compiled code cannot raise, and must not count a wrong class as another one."""
    assert np.isnan(jax.jit(loss)(jnp.asarray(LOGITS), jnp.full(5, wrong)))


def test_constants_that_a_jitted_function_closes_over():
    """They are looked at while tracing, and are no reason to fail."""
    logits, target, wrong = jnp.zeros((2, 3)), jnp.array([0, 2]), jnp.array([0, 3])
    assert jax.jit(lambda x: losses.cross_entropy(x, target))(logits) == losses.cross_entropy(
        logits, target
    )
    assert jnp.isnan(jax.jit(lambda x: losses.cross_entropy(x, wrong))(logits))
    mean, variance = jnp.zeros(2), jnp.ones(2)
    jax.jit(lambda x: losses.gaussian_nll_loss(x, mean, variance))(jnp.ones(2))
    jax.jit(lambda x: losses.binary_cross_entropy(jnp.full(2, 0.5), x))(jnp.ones(2))
