"""Penalties, noise and averages: against torch, and each doing what it is for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import dlwp_jax
from dlwp_jax import nn, optim, parity, regularization, train
from tests.models import Plain, Scalar, Stochastic, assert_same_bits, regression, squared_error

DATA = regression(24)


class Small(nnx.Module):
    """A convolution, batch norm, pooling, a linear layer: each with another rule for its
    gradient.
    """

    def __init__(self, rngs):
        self.conv, self.norm = nn.Conv2d(1, 3, 3, stride=2, rngs=rngs), nn.BatchNorm2d(3)
        self.pool, self.output = nn.MaxPool2d(2), nn.Linear(3 * 2 * 2, 2, rngs=rngs)

    def __call__(self, x):  # [n 10 10 1] -> [n 2]
        x = self.pool(jnp.tanh(self.norm(self.conv(x))))
        return self.output(jnp.moveaxis(x, -1, 1).reshape(len(x), -1))


class TorchSmall(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(1, 3, 3, stride=2), torch.nn.BatchNorm2d(3)
        self.pool, self.output = torch.nn.MaxPool2d(2), torch.nn.Linear(3 * 2 * 2, 2)

    def forward(self, x):
        return self.output(self.pool(torch.tanh(self.norm(self.conv(x)))).flatten(1))


@pytest.fixture
def pair():
    torch.manual_seed(0)
    theirs, ours = TorchSmall(), Small(nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    return theirs, ours


def value_and_gradients(ours, penalty):
    value, grads = jax.jit(nnx.value_and_grad(penalty))(ours)
    return value, nnx.to_pure_dict(grads)


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, lambda name: True),
        ({"biases": False}, lambda name: not name.endswith("bias")),
        ({"norms": False}, lambda name: not name.startswith("norm")),
        (
            {"biases": False, "norms": False},
            lambda name: name in ("conv.weight", "output.weight"),
        ),
        ({"of": nnx.PathContains("conv")}, lambda name: name.startswith("conv")),
    ],
    ids=["all", "no biases", "no norms", "weights", "one layer"],
)
@pytest.mark.parametrize("power", [1, 2])
def test_penalties_equal_torchs_sums_over_the_same_parameters(pair, power, options, chosen):
    theirs, ours = pair
    expected = sum(
        (p.abs() ** power).sum() for name, p in theirs.named_parameters() if chosen(name)
    )
    expected.backward()
    penalty = (regularization.l1, regularization.l2)[power - 1]
    value, ours_grad = value_and_gradients(ours, lambda model: penalty(model, **options))
    np.testing.assert_allclose(
        value, expected.detach(), rtol=1e-6
    )  # a float32 sum of 60 numbers
    for name, layer in (
        ("conv", theirs.conv),
        ("norm", theirs.norm),
        ("output", theirs.output),
    ):
        its = layer.bias.grad
        np.testing.assert_allclose(
            ours_grad[name]["bias"], 0 if its is None else its, rtol=1e-6
        )


def test_l2_in_the_loss_is_weight_decay_in_the_optimizer():
    """strength * l2 has the gradient 2 strength w, which is what torch's weight_decay adds, in
    Adam before the gradient is scaled.
    """

    def penalised(model, batch):
        return squared_error(model, batch)[0] + 0.05 * regularization.l2(model), {}

    results = [
        train.run(
            *train.make_learner(Plain(nnx.Rngs(0)), loss_fn, tx, key=jax.random.key(0)),
            DATA,
            epochs=9,
            batch_size=24,
        )
        for loss_fn, tx in (
            (penalised, optim.adam(1e-2)),
            (squared_error, optim.adam(1e-2, weight_decay=0.1)),
        )
    ]
    # Nine steps; the two gradients are rounded in another order.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        *(result.state.params for result in results),
    )


def test_penalties_refuse_an_empty_choice_and_what_is_no_model():
    with pytest.raises(ValueError, match="no parameter is left to penalise"):
        regularization.l2(nn.BatchNorm2d(3), norms=False)
    with pytest.raises(TypeError, match=r"flax\.nnx\.Module"):
        regularization.l2({"w": jnp.ones(1)})


def test_half_precision_parameters_are_summed_in_float32():
    layer = nnx.Linear(64, 64, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    total = regularization.l2(layer)
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, np.square(np.float32(layer.kernel[...])).sum(), rtol=1e-6)


# Smoothness: a gradient of a gradient, through this project's own convolutions and pooling


@pytest.mark.parametrize("inside_a_loop", [False, True])
def test_smoothness_and_its_gradient_equal_torchs_double_backward(pair, inside_a_loop):
    theirs, ours = pair
    theirs.eval(), ours.eval()
    x = np.random.default_rng(0).normal(size=(4, 10, 10, 1)).astype(np.float32)
    inputs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    outputs = theirs(inputs)
    slopes = [
        torch.autograd.grad(outputs[:, c].sum(), inputs, create_graph=True)[0] for c in range(2)
    ]
    expected = sum((slope**2).sum() for slope in slopes) / 4
    expected.backward()

    def penalty(model):
        if not inside_a_loop:
            return regularization.smoothness(model, jnp.asarray(x))
        graph, variables = nnx.split(model)

        def per_step(i):
            merged = nnx.merge(graph, variables)
            return regularization.smoothness(merged, jnp.asarray(x) + 0 * i)

        return jax.lax.map(per_step, jnp.arange(2.0)).mean()

    value, ours_grad = value_and_gradients(ours, penalty)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-5)
    kernel = theirs.conv.weight.grad.numpy().transpose(2, 3, 1, 0)
    # Two backward passes: float32 sums of about a hundred products, twice.
    np.testing.assert_allclose(ours_grad["conv"]["kernel"], kernel, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(ours_grad["output"]["kernel"].shape, (12, 2))
    np.testing.assert_allclose(
        ours_grad["norm"]["scale"], theirs.norm.weight.grad, rtol=2e-4, atol=1e-5
    )


def test_smoothness_by_one_random_direction_is_unbiased():
    layer = nnx.Linear(3, 5, rngs=nnx.Rngs(0))
    x = jnp.ones((2, 3))
    exact = regularization.smoothness(layer, x)
    np.testing.assert_allclose(exact, np.square(layer.kernel[...]).sum(), rtol=1e-6)
    keys = jax.random.split(jax.random.key(0), 4000)
    estimates = jax.jit(jax.vmap(lambda key: regularization.smoothness(layer, x, key=key)))(
        keys
    )
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / np.sqrt(len(keys))
    with pytest.raises(ValueError, match="one output for each of the 2 examples"):
        regularization.smoothness(lambda x: x.sum(keepdims=True)[0], x)


def test_smoothness_leaves_batch_statistics_and_random_streams_alone():
    model = Stochastic(nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(model))
    # `nnx.jit` gives the model what the function writes into it.
    nnx.jit(lambda model: regularization.smoothness(model, DATA["x"]))(model)
    assert_same_bits(nnx.state(model), before)


def test_smoothness_flattens_a_function_that_is_trained_with_it():
    def final_slope(strength):
        def loss_fn(model, batch):
            return squared_error(model, batch)[0] + strength * regularization.smoothness(
                model, batch["x"]
            ), {}

        learner, state = train.make_learner(
            Plain(nnx.Rngs(0)), loss_fn, optax.adam(1e-2), key=jax.random.key(0)
        )
        result = train.run(learner, state, DATA, epochs=60, batch_size=24)
        return regularization.smoothness(learner.model(result.state), DATA["x"])

    free, smooth = jax.jit(jax.vmap(final_slope))(jnp.array([0.0, 2.0]))
    assert smooth < 0.5 * free


# Noise


@pytest.mark.slow
def test_input_noise_in_training_only_and_with_a_swept_strength():
    class Noisy(nnx.Module):
        def __init__(self, std, rngs):
            self.noise, self.layer = (
                regularization.InputNoise(std, rngs=rngs),
                nnx.Linear(3, 1, rngs=rngs),
            )

        def __call__(self, x):
            return self.layer(self.noise(x))

    def losses(std):
        learner, state = train.make_learner(
            Noisy(std, nnx.Rngs(0)), squared_error, optax.sgd(0.0), key=jax.random.key(0)
        )
        history = train.run(learner, state, DATA, DATA, epochs=2, batch_size=24).history
        return history["train/loss"], history["val/loss"]

    training, validation = jax.vmap(losses)(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(training[0], validation[0], rtol=1e-6)
    assert (
        training[1, 0] != training[1, 1]
    )  # nothing is learned at rate 0: what differs is the noise
    np.testing.assert_array_equal(validation[0], validation[1])
    np.testing.assert_allclose(training[1], losses(1.0)[0], rtol=1e-6)
    x = regularization.InputNoise(0.5, rngs=nnx.Rngs(0))(jnp.zeros(10_000))
    np.testing.assert_allclose(
        [x.mean(), x.std()], [0, 0.5], atol=4 * 0.5 / 100
    )  # four standard errors
    with pytest.raises(ValueError, match="must be finite"):
        regularization.InputNoise(-1.0, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_a_swept_dropout_rate_draws_the_mask_of_the_same_rate_as_a_number():
    def dropped(p):
        return nn.Dropout(p, rngs=nnx.Rngs(0))(jnp.ones((50, 4), jnp.bfloat16))

    swept = jax.vmap(dropped)(jnp.array([0.0, 0.3, 1.0]))
    for p, values in zip((0.0, 0.3, 1.0), swept, strict=True):
        np.testing.assert_array_equal(values, dropped(p))
    assert swept.dtype == jnp.bfloat16
    slopes = jax.grad(lambda x, p: nn.Dropout(p, rngs=nnx.Rngs(0))(x).sum())(
        jnp.ones(4), jnp.float32(1.0)
    )
    assert not slopes.any()


# Averages


def torch_average(theirs, xs, ys, *, avg_fn=None, start=0, every=1):
    """Ten SGD steps in torch, and what AveragedModel makes of them."""
    kept = torch.optim.swa_utils.AveragedModel(theirs, multi_avg_fn=avg_fn)
    opt = torch.optim.SGD(theirs.parameters(), 0.1)
    for step in range(1, 11):
        opt.zero_grad()
        torch.mean((theirs(xs) - ys) ** 2).backward()
        opt.step()
        if step > start and (step - start) % every == 0:
            kept.update_parameters(theirs)
    return kept.module.weight.detach().numpy().T, kept.module.bias.detach().numpy()


@pytest.mark.parametrize(
    ("wrap", "torchs"),
    [
        (
            lambda tx: regularization.ema(tx, 0.9),
            {"avg_fn": torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)},
        ),
        (lambda tx: regularization.swa(tx, start=0), {}),
        (lambda tx: regularization.swa(tx, start=3, every=2), {"start": 3, "every": 2}),
        (
            lambda tx: optax.chain(optax.clip(1e9), regularization.swa(tx, start=8)),
            {"start": 8},
        ),
    ],
    ids=["ema", "swa", "swa late", "in a chain"],
)
def test_averages_equal_torchs_averaged_model(wrap, torchs):
    torch.manual_seed(0)
    theirs, ours = torch.nn.Linear(3, 1), nn.Linear(3, 1, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    learner, state = train.make_learner(
        ours, squared_error, wrap(optax.sgd(0.1)), key=jax.random.key(0)
    )
    result = train.run(learner, state, DATA, epochs=10, batch_size=24)
    kernel, bias = torch_average(
        theirs, *(torch.tensor(np.asarray(DATA[k])) for k in "xy"), **torchs
    )
    params = regularization.averaged(result.state).params
    np.testing.assert_allclose(
        params["kernel"], kernel, rtol=1e-5
    )  # ten SGD steps of float32 rounding
    np.testing.assert_allclose(params["bias"], bias, rtol=1e-4)
    assert (
        not np.allclose(params["kernel"], result.state.params["kernel"], rtol=1e-5)
        or "start" in torchs
    )


def test_an_average_in_half_precision_moves_by_less_than_a_rounding_step():
    tx = regularization.ema(optax.sgd(1.0), 0.999)
    params = {"w": jnp.ones((), jnp.bfloat16)}
    state, average = tx.init(params), []
    for _ in range(3):
        updates, state = tx.update({"w": jnp.ones((), jnp.bfloat16)}, state, params)
        params = optax.apply_updates(params, updates)
        average.append(float(state.average["w"]))
    np.testing.assert_allclose(average, [0.0, -0.001, -0.001 * 0.999 - 0.002], rtol=1e-5)


def test_until_the_averaging_begins_the_average_is_the_newest_parameters():
    learner, state = train.make_learner(
        Plain(nnx.Rngs(0)),
        squared_error,
        regularization.swa(optax.sgd(0.1), start=100),
        key=jax.random.key(0),
    )
    result = train.run(learner, state, DATA, epochs=2, batch_size=8)
    assert_same_bits(regularization.averaged(result.state), result.state)


def test_averaging_is_quieter_than_the_last_weights():
    """SGD at a constant rate on noise around 0 wanders; the mean of its path does not."""

    def loss_fn(model, batch):
        return jnp.mean((model.w[...] - batch["x"]) ** 2), {}

    noise = {"x": jax.random.normal(jax.random.key(0), (256,))}
    noise["x"] -= noise["x"].mean()

    def ends(key):
        tx = regularization.swa(optax.sgd(0.3), start=64)
        result = train.run(
            *train.make_learner(Scalar(), loss_fn, tx, key=key), noise, epochs=4, batch_size=4
        )
        return result.state.params["w"], regularization.averaged(result.state).params["w"]

    last, mean = jax.jit(jax.vmap(ends))(jax.random.split(jax.random.key(1), 32))
    assert mean.std() < 0.5 * last.std()


def test_averaging_refuses_bad_settings():
    with pytest.raises(ValueError, match="decay=1"):
        regularization.ema(optax.sgd(0.1), 1.0)
    with pytest.raises(ValueError, match="start=-1"):
        regularization.swa(optax.sgd(0.1), start=-1)
    with pytest.raises(ValueError, match="every must be at least 1"):
        regularization.swa(optax.sgd(0.1), start=0, every=0)
    _, state = train.make_learner(
        Plain(nnx.Rngs(0)), squared_error, optax.sgd(0.1), key=jax.random.key(0)
    )
    with pytest.raises(ValueError, match="keeps no average"):
        regularization.averaged(state)


def test_update_bn_equals_torchs(pair):
    theirs, ours = pair
    x = np.random.default_rng(0).normal(1.0, 2.0, (10, 10, 10, 1)).astype(np.float32)
    loader = [(torch.tensor(x[i : i + 4].transpose(0, 3, 1, 2)),) for i in range(0, 10, 4)]
    torch.optim.swa_utils.update_bn(loader, theirs)
    learner, state = train.make_learner(
        ours,
        lambda model, batch: (model(batch).sum(), {}),
        optax.sgd(0.1),
        key=jax.random.key(0),
    )
    after = regularization.update_bn(learner, state, jnp.asarray(x), batch_size=4)
    np.testing.assert_allclose(after.extra["norm"]["mean"], theirs.norm.running_mean, rtol=1e-5)
    np.testing.assert_allclose(after.extra["norm"]["var"], theirs.norm.running_var, rtol=1e-5)
    assert (
        int(after.extra["norm"]["num_batches_tracked"])
        == int(theirs.norm.num_batches_tracked)
        == 3
    )
    assert_same_bits(after.params, state.params)


def test_update_bn_with_flaxs_batch_norm_and_without_any():
    learner, state = train.make_learner(
        Stochastic(nnx.Rngs(0)), squared_error, optax.sgd(0.1), key=jax.random.key(0)
    )
    after = regularization.update_bn(learner, state, DATA, batch_size=24)
    hidden = learner.model(state).hidden(DATA["x"])
    np.testing.assert_allclose(
        after.extra["norm"]["mean"], hidden.mean(axis=0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(after.extra["norm"]["var"], hidden.var(axis=0), rtol=1e-5)
    learner, state = train.make_learner(
        Plain(nnx.Rngs(0)), squared_error, optax.sgd(0.1), key=jax.random.key(0)
    )
    assert_same_bits(regularization.update_bn(learner, state, DATA, batch_size=5), state)


def test_every_cure_that_the_page_names_is_there():
    rows = re.findall(r"^\| [^|]*\| (.*?) \| [^|]*\|$", regularization.__doc__, re.MULTILINE)[
        2:
    ]
    names = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) >= 15
    for name in names:
        found = dlwp_jax if "." in name else regularization
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)
