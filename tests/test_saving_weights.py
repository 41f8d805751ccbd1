"""Weights alone: written whole, read back to the bit, or refused by name."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import train
from dlwp_jax.weights import load_weights, save_weights
from tests.models import Stochastic, assert_same_bits, squared_error


def state_of(seed=0, dtype=jnp.float32, model=Stochastic):
    made = model(nnx.Rngs(seed))
    nnx.update(
        made,
        jax.tree.map(
            lambda a: a.astype(dtype) if a.dtype == jnp.float32 else a, nnx.state(made)
        ),
    )
    return train.make_learner(made, squared_error, optax.sgd(0.1), key=jax.random.key(0))[1]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("w.npz", "float32"), ("w.safetensors", "float32"), ("w.safetensors", "bfloat16")],
)
def test_written_and_read(tmp_path, name, dtype):
    saved, other = state_of(0, dtype), state_of(1, dtype)
    save_weights(tmp_path / name, saved)
    loaded = load_weights(tmp_path / name, other)
    assert_same_bits((loaded.params, loaded.extra), (saved.params, saved.extra))
    assert_same_bits(
        replace(loaded, params=None, extra=None), replace(other, params=None, extra=None)
    )
    assert [p.name for p in tmp_path.iterdir()] == [name]


class Tempered(Stochastic):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.temperature = nnx.Param(jnp.float32(0.5 + float(self.hidden.kernel[0, 0])))


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors"])
def test_single_numbers_and_where_arrays_lie_are_kept(tmp_path, name):
    """A scalar became an array of one; and a state tied to one device trains by itself,
    whatever other processes do.
    """
    saved, other = state_of(0, model=Tempered), state_of(1, model=Tempered)
    save_weights(tmp_path / name, saved)
    loaded = load_weights(tmp_path / name, other)
    assert_same_bits((loaded.params, loaded.extra), (saved.params, saved.extra))
    assert not any(leaf.committed for leaf in jax.tree.leaves((loaded.params, loaded.extra)))
    placed = jax.device_put(other, jax.devices()[0])
    assert all(
        leaf.committed for leaf in jax.tree.leaves(load_weights(tmp_path / name, placed).params)
    )


def test_other_programs_read_them(tmp_path):
    import safetensors.torch

    state = state_of()
    save_weights(tmp_path / "w.safetensors", state)
    tensors = safetensors.torch.load_file(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(tensors["hidden.kernel"], state.params["hidden"]["kernel"])
    np.testing.assert_array_equal(tensors["norm.mean"], state.extra["norm"]["mean"])


def test_to_torch_and_back_through_parity(tmp_path):
    """The other way out: a state_dict with torch's names and layouts."""
    from dlwp_jax import nn, parity

    model = nn.Sequential(
        nn.Linear(3, 8, rngs=nnx.Rngs(0)), nn.BatchNorm1d(8), nn.Linear(8, 1, rngs=nnx.Rngs(1))
    )
    learner, state = train.make_learner(
        model, squared_error, optax.sgd(0.1), key=jax.random.key(0)
    )
    theirs = parity.to_torch(learner.model(state))
    np.testing.assert_array_equal(theirs["0.weight"].T, learner.model(state)[0].kernel[...])


class Narrow(Stochastic):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.output = nnx.Linear(8, 2, rngs=rngs)


class More(Stochastic):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.again = nnx.Linear(1, 1, rngs=rngs)


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors"])
def test_what_does_not_fit_or_is_damaged_is_refused_by_name(tmp_path, name):
    path = tmp_path / name
    save_weights(path, state_of())
    with pytest.raises(
        ValueError,
        match=rf"{name}: output\.bias is float32\[1\] there, and float32\[2\] in the model",
    ):
        load_weights(path, state_of(model=Narrow))
    with pytest.raises(
        ValueError, match=r"hidden\.bias is float32\[8\] there, and bfloat16\[8\] in the model"
    ):
        load_weights(path, state_of(dtype="bfloat16"))
    with pytest.raises(ValueError, match=r"again\.bias is only in the model"):
        load_weights(path, state_of(model=More))
    save_weights(path, state_of(model=More))
    with pytest.raises(ValueError, match=r"again\.bias is only in the file"):
        load_weights(path, state_of())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{name} cannot be read as"):
        load_weights(path, state_of())
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / f"none-{name}", state_of())


def test_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"w\.h5: weights are written and read as \.safetensors or \.npz"
    ):
        save_weights(tmp_path / "w.h5", state_of())
    with pytest.raises(ValueError, match=r"\.npz cannot hold hidden\.bias, which is bfloat16"):
        save_weights(tmp_path / "w.npz", state_of(dtype="bfloat16"))
    for suffix in (".npz", ".safetensors"):
        with pytest.raises(
            FileNotFoundError, match=r"cannot be written: there is no folder .*/none"
        ):
            save_weights(tmp_path / f"none/w{suffix}", state_of())
        with pytest.raises(TypeError, match="state must be a TrainState"):
            save_weights(tmp_path / f"w{suffix}", None)
    with pytest.raises(TypeError, match="path must be a path"):
        save_weights(3, state_of())
    assert not list(tmp_path.iterdir())
    np.save(tmp_path / "w.npy", np.ones(3))
    (tmp_path / "w.npy").rename(tmp_path / "w.npz")
    with pytest.raises(
        ValueError, match=r"cannot be read as an \.npz file: it is a single array"
    ):
        load_weights(tmp_path / "w.npz", state_of())


def test_a_write_that_fails_leaves_the_file_before_it(tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    save_weights(path, state_of())
    before = path.read_bytes()

    def full(file, array, **_):
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, state_of(1))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.npz"]
