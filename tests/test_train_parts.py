"""Parts of a model: which are trained, and which stay in eval mode. Referee: torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dlwp_jax import autograd, nn, parity, train

X = np.random.default_rng(0).normal(3, 1, (8, 3)).astype(np.float32)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.backbone = nn.Sequential(nn.Linear(3, 4, rngs=rngs), nn.BatchNorm1d(4))
        self.dropout = nn.Dropout(0.0, rngs=rngs)
        self.head = nn.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(self.backbone(x)))


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.dropout = torch.nn.Dropout(0.0)
        self.head = torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.dropout(self.backbone(x)))


def squared(model, batch):
    return jnp.mean(model(batch) ** 2), {}


HEAD = nnx.All(nnx.Param, nnx.PathContains("head"))


@pytest.mark.parametrize(
    ("trainable", "in_eval", "stays"),
    [
        (HEAD, ("backbone",), True),
        (HEAD, ("backbone", "dropout", "head"), True),  # the whole model, after an evaluation
        (HEAD, (), False),
        (nnx.Param, ("backbone",), True),
        (nnx.Param, ("backbone", "dropout", "head"), False),
    ],
)
def test_statistics_move_as_in_torch_with_the_same_parts_in_eval_mode(
    trainable, in_eval, stays
):
    theirs, ours = Theirs(), Net(nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    for part in in_eval:
        getattr(ours, part).eval()
    if stays:
        theirs.backbone.eval()
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad = trainable is nnx.Param or name.startswith("head")
    chosen = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    opt = torch.optim.SGD(chosen, lr=0.1)
    for _ in range(2):
        opt.zero_grad()
        (theirs(torch.from_numpy(X)) ** 2).mean().backward()
        opt.step()

    learner, state = train.make_learner(
        ours, squared, optax.sgd(0.1), key=jax.random.key(0), trainable=trainable
    )
    state = train.run(learner, state, X, epochs=2, batch_size=8).state
    model = learner.model(state)
    norm = theirs.backbone[1]
    # Two steps of float32.
    np.testing.assert_allclose(model.backbone[1].mean[...], norm.running_mean, rtol=1e-5)
    np.testing.assert_allclose(model.backbone[1].var[...], norm.running_var, rtol=1e-5)
    np.testing.assert_allclose(
        model.head.kernel[...].T, theirs.head.weight.detach(), rtol=1e-4, atol=1e-6
    )


class Deep(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nn.Linear(3, 3, rngs=rngs) for _ in range(2)])
        self.head = nn.Linear(3, 1, rngs=rngs)
        self.norm = nn.BatchNorm1d(3)


PART = r"nnx.All\(nnx.Param, nnx.PathContains\('head'\)\)"


@pytest.mark.parametrize(
    ("trainable", "error", "message"),
    [
        ("head", ValueError, PART),
        ("haed", ValueError, PART),
        (["head"], ValueError, PART),
        (nnx.Not("head"), ValueError, PART),
        (nnx.PathContains("Head"), ValueError, PART),
        (nnx.All(nnx.Param, nnx.Not(nnx.PathContains("heads"))), ValueError, PART),
        ("layers.0", ValueError, r"lambda path, _: path\[:2\] == \('layers', 0\)"),
        (nnx.PathContains("0"), ValueError, r"nnx.PathContains\(0\)"),
        (
            "everything",
            ValueError,
            "The parameters are .*head.bias, head.kernel, layers.0.bias",
        ),
        ({"head"}, TypeError, PART),
        (nnx.PathContains("norm"), TypeError, r"norm.mean, a statistic.*nnx.All\(nnx.Param"),
        (nnx.BatchStat, TypeError, "norm.mean, a statistic"),
        (lambda path, _: "hat" in path, ValueError, "The parameters are head.bias"),
    ],
)
def test_a_name_that_the_model_does_not_have_is_answered_with_its_own(
    trainable, error, message
):
    options = {"tx": optax.sgd(0.1), "key": jax.random.key(0)}
    with pytest.raises(error, match=message):
        train.make_learner(Deep(), squared, trainable=trainable, **options)


def test_a_part_of_the_model_is_no_filter():
    model = Deep()
    options = {"tx": optax.sgd(0.1), "key": jax.random.key(0)}
    for part in (model.head, model.head.kernel):
        with pytest.raises(TypeError, match=r"must be an NNX filter.*head"):
            train.make_learner(model, squared, trainable=part, **options)


def test_grad_where_refuses_the_same_names():
    with pytest.raises(ValueError, match=PART):
        autograd.grad_where(lambda model: 0.0, "head")(Deep())


def test_the_suggested_filters_choose_the_part():
    options = {"tx": optax.sgd(0.1), "key": jax.random.key(0)}
    for trainable, names in (
        (nnx.All(nnx.Param, nnx.PathContains("head")), {"head"}),
        (nnx.All(nnx.Param, lambda path, _: path[:2] == ("layers", 0)), {"layers"}),
        ([nnx.All(nnx.Param, nnx.PathContains(0))], {"layers"}),
    ):
        _, state = train.make_learner(Deep(), squared, trainable=trainable, **options)
        assert state.params.keys() == names
