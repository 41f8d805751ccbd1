"""compare and compare_steps: agreement is reported, and a planted difference is found where it
was planted.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dlwp_jax import nn, optim, parity, train
from dlwp_jax.parity.report import rows_of
from dlwp_jax.parity.symptoms import looks_like

RNG = np.random.default_rng(0)
BATCHES = [
    {"x": RNG.standard_normal((8, 2, 3, 3)).astype(np.float32), "y": RNG.integers(0, 3, 8)}
    for _ in range(4)
]


def torch_model():
    torch.manual_seed(0)
    layers = {
        "conv": torch.nn.Conv2d(2, 4, 2),
        "norm": torch.nn.BatchNorm2d(4),
        "act": torch.nn.Tanh(),
        "flat": torch.nn.Flatten(),
        "head": torch.nn.Linear(16, 3),
    }
    model = torch.nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


class Model(nnx.Module):
    def __init__(self, *, rngs, momentum=0.1, wrong=None):
        self.conv, self.norm = (
            nn.Conv2d(2, 4, 2, rngs=rngs),
            nn.BatchNorm2d(4, momentum=momentum),
        )
        self.head, self.wrong = nn.Linear(16, 3, rngs=rngs), wrong

    def __call__(self, x):
        x = jnp.tanh(self.norm(self.conv(x)))
        return self.head(nn.flatten(x))


def torch_loss(model, batch):
    return torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def loss_fn(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"]), {}


def test_compare_agrees_in_eval_and_train_mode_and_changes_neither_model():
    theirs, ours = torch_model(), Model(rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs)
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    for train_mode in (False, True):
        report = parity.compare(theirs, ours, BATCHES[0]["x"], loaded=loaded, train=train_mode)
        report.raise_if_different()
        assert {row.stage for row in report.rows} == {"weights", "forward", "gradient"}
        assert ("norm.var" in {row.leaf for row in report.rows}) == train_mode
        assert "all agree" in str(report)
        assert ("momentum" in str(report)) == (not train_mode)
    after = parity.to_torch(ours, loaded)
    for name, value in theirs.state_dict().items():
        assert value.equal(before[name])
        assert after[name].equal(value)
    assert theirs.conv.weight.grad is None
    assert theirs.training


def test_compare_names_weights_that_were_not_loaded():
    theirs, ours = torch_model(), Model(rngs=nnx.Rngs(0))
    report = parity.compare(theirs, ours, BATCHES[0]["x"])
    assert (report.first_difference.stage, report.first_difference.leaf) == (
        "weights",
        "conv.kernel",
    )
    with pytest.raises(AssertionError, match=r"first difference: weights, conv\.kernel"):
        report.raise_if_different()


def test_compare_finds_a_wrong_statistic_only_in_train_mode():
    theirs, ours = torch_model(), Model(rngs=nnx.Rngs(0), momentum=0.2)
    loaded = parity.load_torch(ours, theirs)
    right = parity.compare(theirs, ours, BATCHES[0]["x"], loaded=loaded)
    assert right.ok
    assert "the momentum of batch norm not compared" in str(right)
    wrong = parity.compare(
        theirs, ours, BATCHES[0]["x"], loaded=loaded, train=True
    ).first_difference
    assert (wrong.stage, wrong.leaf) == ("forward", "norm.mean")


def test_compare_refuses_what_cannot_agree():
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))
    ours = nn.Sequential(nn.Linear(3, 3, rngs=nnx.Rngs(0)), nn.Dropout(0.5, rngs=nnx.Rngs(0)))
    parity.load_torch(ours, theirs)
    x = np.ones((2, 3), np.float32)
    parity.compare(theirs, ours, x).raise_if_different()
    with pytest.raises(ValueError, match=r"1 \(Dropout\) is random in train mode"):
        parity.compare(theirs, ours, x, train=True)
    with pytest.raises(ValueError, match="at least one input"):
        parity.compare(theirs, ours)
    with pytest.raises(ValueError, match=r"with values; shapes: \[\(0, 3\)\]"):
        parity.compare(theirs, ours, x[:0])
    with pytest.raises(TypeError, match="the first model is a Sequential; a torch"):
        parity.compare(ours, theirs, x)
    other = nn.Sequential(nn.Linear(3, 3, rngs=nnx.Rngs(0)), lambda y: y[:, :2])
    parity.load_torch(other, theirs)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) in torch and \(2, 2\) here"):
        parity.compare(theirs, other, x)


# --- compare_steps


@jax.custom_vjp
def forgetful(x):
    """The identity, whose gradient loses a tenth."""
    return x


forgetful.defvjp(lambda x: (x, None), lambda _, g: (0.9 * g,))


class WrongGradient(Model):
    def __call__(self, x):
        x = jnp.tanh(self.norm(self.conv(x)))
        head = self.head
        return nn.flatten(x) @ forgetful(head.kernel[...]) + head.bias[...]


def wrong_loss(model, batch):
    """As `loss_fn`, but for batches whose first label is 2, of which batch number `WRONG_STEP`
    is the first.
    """
    loss, logs = loss_fn(model, batch)
    return jnp.where(batch["y"][0] == 2, 1.01 * loss, loss), logs


def late_lr(step):
    return jnp.where(step == 2, 0.09, 0.1)


PLANTED = {
    "nothing": (Model, loss_fn, optim.sgd(0.1, momentum=0.9), None),
    "in the loss": (Model, wrong_loss, optim.sgd(0.1, momentum=0.9), (3, "forward", "loss")),
    "in one gradient": (
        WrongGradient,
        loss_fn,
        optim.sgd(0.1, momentum=0.9),
        (0, "gradient", "head.kernel"),
    ),
    "in the momentum": (
        Model,
        loss_fn,
        optim.sgd(0.1, momentum=0.8),
        (1, "update", "conv.kernel"),
    ),
    "in the weight decay": (
        Model,
        loss_fn,
        optim.sgd(0.1, momentum=0.9, weight_decay=0.01),
        (0, "update", "conv.kernel"),
    ),
    "in the learning rate": (
        Model,
        loss_fn,
        optim.sgd(late_lr, momentum=0.9),
        (2, "update", "conv.kernel"),
    ),
}


SAID = {
    "in one gradient": "0.9 times those of torch: head.kernel",
    "in the momentum": "step 1 is the first that differs: momentum",
    "in the weight decay": "moved by -0.001 times itself besides: the weight decay",
    "in the learning rate": "moved 0.9 times as far: the learning rate",
}


@pytest.mark.parametrize("where", PLANTED)
def test_a_difference_is_found_at_its_step_stage_and_leaf(where):
    make, loss, tx, planted = PLANTED[where]
    theirs, ours = torch_model(), make(rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs)
    opt = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    learner, state = train.make_learner(ours, loss, tx, key=jax.random.key(0))
    for batch, first in zip(BATCHES, (0, 1, 0, 2), strict=True):
        batch["y"][0] = first
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    report = parity.compare_steps(
        theirs, opt, learner, state, BATCHES, torch_loss, loaded=loaded
    )
    first = report.first_difference
    assert (None if first is None else (first.step, first.stage, first.leaf)) == planted
    assert report.rows[-1].step == (3 if planted is None else planted[0])
    assert SAID.get(where, "") in str(report)
    assert all(value.equal(before[name]) for name, value in theirs.state_dict().items())
    assert not opt.state


def test_wrong_statistics_are_found_in_the_forward_stage():
    theirs, ours = torch_model(), Model(rngs=nnx.Rngs(0), momentum=0.2)
    parity.load_torch(ours, theirs)
    learner, state = train.make_learner(ours, loss_fn, optim.sgd(0.1), key=jax.random.key(0))
    opt = torch.optim.SGD(theirs.parameters(), lr=0.1)
    first = parity.compare_steps(
        theirs, opt, learner, state, BATCHES, torch_loss
    ).first_difference
    assert (first.step, first.stage, first.leaf) == (0, "forward", "norm.mean")


def test_no_batch_at_all_proves_nothing():
    theirs, ours = torch.nn.Linear(3, 2), nn.Linear(3, 2, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    learner, state = train.make_learner(ours, loss_fn, optim.sgd(0.1), key=jax.random.key(0))
    opt = torch.optim.SGD(theirs.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="at least one batch"):
        parity.compare_steps(theirs, opt, learner, state, iter(()), torch_loss)
    with pytest.raises(TypeError, match="the first model is a Linear; a torch"):
        parity.compare_steps(ours, opt, learner, state, iter(()), torch_loss)


def test_weights_that_differ_from_the_start_are_the_first_difference():
    theirs, ours = torch_model(), Model(rngs=nnx.Rngs(0))
    learner, state = train.make_learner(ours, loss_fn, optim.sgd(0.1), key=jax.random.key(0))
    opt = torch.optim.SGD(theirs.parameters(), lr=0.1)
    first = parity.compare_steps(
        theirs, opt, learner, state, BATCHES, torch_loss
    ).first_difference
    assert (first.step, first.stage) == (0, "weights")


# --- rows


@pytest.mark.parametrize(
    ("ours", "theirs", "ok", "worst"),
    [
        ([1.0, np.nan], [1.0, np.nan], True, 0.0),
        ([1.0, np.nan], [1.0, 2.0], False, np.inf),
        ([1.0, 2.0], [1.0, np.nan], False, np.inf),
        ([np.inf], [np.inf], True, 0.0),
        ([np.inf], [-np.inf], False, np.inf),
        ([1.0, 2.0], [1.0, 2.5], False, 0.5),
        ([], [], True, 0.0),
    ],
)
def test_rows_of_odd_values(ours, theirs, ok, worst):
    (row,) = rows_of(
        "forward", {"y": np.float32(ours)}, {"y": np.float32(theirs)}, tolerance=1e-3
    )
    assert (row.ok, row.max_abs) == (ok, worst)


def test_a_distance_of_one_rounding_is_one_ulp():
    one = np.float32(1.0)
    (row,) = rows_of(
        "forward", {"y": np.nextafter(one, np.float32(2))}, {"y": one}, tolerance=0
    )
    assert row.ulp == 1
    assert not row.ok


def test_a_small_output_beside_a_large_one_has_no_floor():
    theirs = {"big": np.float32([1e6]), "small": np.float32([1.0])}
    ours = {"big": np.float32([1e6]), "small": np.float32([1.04])}
    assert [row.ok for row in rows_of("forward", ours, theirs, tolerance=1e-4)] == [True, False]
    assert [row.note for row in rows_of("gradient", ours, theirs, tolerance=1e-4)] == [
        "",
        "below floor",
    ]


class Detached(torch.nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x).detach())


def two_layers(kind=torch.nn.Sequential):
    theirs = kind(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    ours = nn.Sequential(nn.Linear(3, 4, rngs=nnx.Rngs(0)), nn.Linear(4, 2, rngs=nnx.Rngs(1)))
    return theirs, ours, parity.load_torch(ours, theirs)


def test_a_missing_stop_gradient_is_found():
    theirs, ours, loaded = two_layers(Detached)
    report = parity.compare(theirs, ours, np.ones((2, 3), np.float32), loaded=loaded)
    assert {row.leaf for row in report.rows if not row.ok} == {"0.kernel", "0.bias", "input 0"}


def test_frozen_parameters_are_noted_and_not_compared():
    theirs, ours, loaded = two_layers()
    theirs[0].requires_grad_(False)
    report = parity.compare(theirs, ours, np.ones((2, 3), np.float32), loaded=loaded)
    assert report.ok
    assert "frozen in torch, not compared: 0.kernel, 0.bias" in str(report)


def test_dropout_left_out_in_eval_mode_is_noted():
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    ours = nn.Sequential(nn.Linear(3, 2, rngs=nnx.Rngs(0)))
    loaded = parity.load_torch(ours, theirs)
    assert "dropout not compared" in str(
        parity.compare(theirs, ours, np.ones((2, 3), np.float32), loaded=loaded)
    )


def test_parameters_without_a_counterpart_are_named_and_the_report_is_not_ok():
    theirs, ours, _ = two_layers()
    renamed = {f"a{name}": value + 1 for name, value in theirs.state_dict().items()}
    rules = [(r"a(\d)\..*", r"\1")]
    loaded = parity.load_torch(ours, renamed, rules=rules)
    report = parity.compare(theirs, ours, np.ones((2, 3), np.float32), loaded=loaded)
    assert not report.ok
    assert "not compared: torch's 0.weight, 0.bias, 1.weight, 1.bias" in str(report)


@pytest.mark.parametrize("rename", ["net.{}", "renamed{}"])
def test_a_stopped_gradient_is_seen_under_other_names_too(rename):
    class Stopped(nn.Sequential):
        def __call__(self, x):
            kernel = jax.lax.stop_gradient(self[1].kernel[...])
            return self[0](x) @ kernel + self[1].bias[...]

    theirs, _, _ = two_layers()
    rngs = nnx.Rngs(0)
    ours = Stopped(nn.Linear(3, 4, rngs=rngs), nn.Linear(4, 2, rngs=rngs))
    state = {rename.format(name): value for name, value in theirs.state_dict().items()}
    rules = [(r"renamed(\d)\..*", r"\1")] if rename == "renamed{}" else []
    loaded = parity.load_torch(ours, state, rules=rules)
    report = parity.compare(theirs, ours, np.ones((2, 3), np.float32), loaded=loaded)
    assert [row.leaf for row in report.rows if not row.ok] == ["1.kernel"]
    assert "not compared" not in str(report)


class Functional(torch.nn.Linear):
    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x), 0.5, self.training)


def test_dropout_by_a_function_is_noted_in_eval_mode_and_refused_in_train_mode():
    theirs, ours = Functional(3, 2), nn.Linear(3, 2, rngs=nnx.Rngs(0))
    loaded, x = parity.load_torch(ours, theirs), np.ones((2, 3), np.float32)
    assert "dropout not compared" in str(parity.compare(theirs, ours, x, loaded=loaded))
    with pytest.raises(ValueError, match=r"the model \(Functional\) is random in train mode"):
        parity.compare(theirs, ours, x, loaded=loaded, train=True)


class TorchKink(torch.nn.Linear):
    """Float32 loses 1e-9 beside 1, and with it the slope of the ReLU."""

    def forward(self, x):
        y = super().forward(x)
        return y + torch.relu((1 + (y - y.detach()) + 1e-9) - 1)


class Kink(nn.Linear):
    """The same sum in another order, in which float32 keeps 1e-9."""

    def __call__(self, x):
        y = super().__call__(x)
        return y + nn.relu((y - jax.lax.stop_gradient(y)) + 1e-9)


def test_a_difference_of_float32_alone_is_called_rounding():
    theirs, ours = TorchKink(3, 2), Kink(3, 2, rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    report = parity.compare(theirs, ours, x, loaded=loaded).raise_if_different()
    assert "rounding" in {row.note for row in report.rows}
    assert "torch's own float32 lies up to" in str(report)


class Deep(nnx.Module):
    """The port of `torch_model` with one thing wrong."""

    def __init__(self, wrong, *, rngs):
        self.conv = nn.Conv2d(2, 4, 2, padding=wrong == "padding", rngs=rngs)
        self.norm = nn.BatchNorm2d(4, eps=1e-2 if wrong == "eps" else 1e-5)
        self.head, self.wrong = nn.Linear(16, 3, rngs=rngs), wrong

    def __call__(self, x):
        x = self.norm(self.conv(x)[:, :2, :2])
        return self.head(nn.flatten(nn.relu(x) if self.wrong == "activation" else jnp.tanh(x)))


@pytest.mark.parametrize(
    ("wrong", "layer", "words"),
    [
        ("eps", "norm", r"its input agrees; .* eps is 1e-05 in torch and 0.01 here"),
        ("activation", "head", "right until the output of norm"),
        ("padding", "conv", r"its output has shape \(8, 4, 2, 2\) in torch"),
    ],
)
def test_the_first_layer_that_differs_is_named(wrong, layer, words):
    theirs, ours = torch_model(), Deep(wrong, rngs=nnx.Rngs(0))
    loaded = parity.load_torch(ours, theirs.eval())
    report = parity.compare(theirs, ours, BATCHES[0]["x"], loaded=loaded)
    row = report.first_difference
    assert (row.stage, row.leaf) == ("forward", layer)
    assert re.search(words, str(report))


Y = np.random.default_rng(0).standard_normal((2, 4, 6, 6))
BORDERED = np.pad(Y[:, :, 1:-1, 1:-1], ((0, 0), (0, 0), (1, 1), (1, 1)))


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (3 * Y, "3 times"),
        (Y + 2, "plus 2"),
        (Y[:, [1, 0, 2, 3]], "permutation of channels"),
        (BORDERED, "border 1 wide"),
        (np.swapaxes(Y, 2, 3), "height and width exchanged"),
        (np.where(Y > 0, Y, 0.1 * Y), "negative side"),
        (Y * np.arange(1, 5)[:, None, None] + 1, "in each channel"),
        (np.sort(Y, axis=-1), "same values in another order"),
        (np.exp(Y), "in 100% of its values"),
    ],
)
def test_the_kind_of_a_difference_is_said(ours, words):
    assert words in looks_like(ours, Y, 1e-9)


def test_a_wrong_momentum_is_said():
    theirs, ours = torch_model(), Model(rngs=nnx.Rngs(0), momentum=0.2)
    loaded = parity.load_torch(ours, theirs)
    report = parity.compare(theirs, ours, BATCHES[0]["x"], loaded=loaded, train=True)
    assert "norm.mean moved 2 times as far as in torch" in str(report)


def test_the_plain_average_of_batch_norm_is_right_in_float64():
    """Referee: torch, whose third batch counts a third."""
    theirs, ours = torch.nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, momentum=None)
    theirs.num_batches_tracked.fill_(2)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    loaded = parity.load_torch(ours, theirs)
    with jax.disable_jit():
        report = parity.compare(theirs, ours, x, loaded=loaded, train=True, double=True)
    report.raise_if_different()


def test_a_factor_that_prints_as_1_is_not_said():
    y = np.array([[1.0, -2.0, 3.0]])
    assert "times" not in looks_like((1 + 1e-8) * y, y, 1e-9)


def test_both_sides_run_at_the_highest_precision():
    """On a GPU the default may be TF32, 10 bits; what is compiled says which is meant."""
    seen = []

    class Product(nnx.Module):
        def __init__(self):
            self.kernel = nnx.Param(jnp.eye(3))

        def __call__(self, x):
            seen.append(
                jax.make_jaxpr(jnp.dot)(x, self.kernel[...]).eqns[0].params["precision"]
            )
            return x @ self.kernel[...]

    theirs, ours = torch.nn.Linear(3, 3, bias=False), Product()
    loaded = parity.load_torch(
        ours, theirs, rules=[("weight", "kernel")], probe=np.eye(3, dtype=np.float32)
    )
    parity.compare(
        theirs, ours, np.eye(3, dtype=np.float32), loaded=loaded
    ).raise_if_different()
    assert seen
    assert set(seen) == {(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)}


class TwoNorms(nnx.Module):
    def __init__(self, momentum):
        self.bn1, self.bn2 = nn.BatchNorm1d(4), nn.BatchNorm1d(4, momentum=momentum)

    def __call__(self, x):
        return 6 * self.bn2(jnp.tanh(self.bn1(x)))


class TorchNorms(torch.nn.Module):
    """With a function that has a closure and a keyword of its own."""

    def __init__(self, factor=3.0):
        super().__init__()
        self.bn1, self.bn2 = torch.nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4)

        def scaled(x, *, by=2.0):
            return x * by * factor

        self.scaled = scaled

    def forward(self, x):
        return self.scaled(self.bn2(torch.tanh(self.bn1(x))))


@pytest.mark.parametrize("momentum", [0.1, 0.2])
def test_a_momentum_is_judged_by_the_statistics_of_its_own_layer(momentum):
    """Referee: torch, whose momentum is 0.1. The first layer's statistics are a million times
    those of the second.
    """
    theirs, ours = TorchNorms(), TwoNorms(momentum)
    x = 1000 * np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    report = parity.compare(theirs, ours, x, loaded=parity.load_torch(ours, theirs), train=True)
    assert report.ok == (momentum == 0.1), report
