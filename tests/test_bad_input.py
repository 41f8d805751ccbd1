"""Faults that the property tests found, each by name: silent wrong numbers, and hangs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dlwp_jax import data, storage, train
from dlwp_jax.data import arrays, audio, cifar, image, series, table, text, volume
from tests.models import Plain, regression, squared_error

DATA = regression(6)
PAIR = train.make_learner(
    Plain(nnx.Rngs(0)), squared_error, optax.sgd(0.1), key=jax.random.key(0)
)
MASKED = np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0])


def test_numbers_that_were_wrong_without_a_word():
    vectors = np.arange(600.0, dtype=np.float32).reshape(300, 2)
    # -1 in int8 became row 300 % 256, and 2**32 - 1 in uint32 the last row.
    assert np.isnan(text.embed(vectors, np.array([-1], np.int8))).all()
    assert np.isnan(text.embed(vectors, np.array([2**32 - 1], np.uint32))).all()
    # The mean of large whole numbers was rounded to float32.
    scaled, _ = data.standardize(np.arange(3) + 10**9)
    np.testing.assert_array_equal(scaled, [-1, 0, 1])
    # A dimension given twice counted its examples twice.
    with pytest.raises(ValueError, match="repeated axis"):
        arrays.Scale.standard(np.ones((3, 2)), axis=(0, 0))
    with pytest.raises(ValueError, match="would change"):
        arrays.Scale(np.zeros(3), np.ones(3)).apply(np.ones((4, 1)))
    # Voxel -1 was the last slice.
    with pytest.raises(ValueError, match="irc"):
        volume.Volume(np.zeros((2, 3, 4))).planes((-1, 0, 0))
    with pytest.raises(ValueError, match="different names"):
        cifar.read("nowhere", classes=("cat", "cat"))
    with pytest.raises(TypeError, match="masked"):
        table.categories(MASKED)
    with pytest.raises(OverflowError, match="does not fit"):
        storage.tensor([np.nan], jnp.int32)
    with pytest.raises(OverflowError, match="does not fit"):
        storage.tensor([300], jnp.uint8)


def test_the_other_byte_order_is_read():
    swapped = np.arange(6.0).astype(">f4")
    np.testing.assert_array_equal(storage.tensor(swapped).numpy(), np.arange(6.0))
    np.testing.assert_array_equal(audio.to_float(np.array([-32768], ">i2")), [-1.0])
    native = train.evaluate(*PAIR, DATA)
    other = train.evaluate(
        *PAIR, jax.tree.map(lambda leaf: np.asarray(leaf).astype(">f4"), DATA)
    )
    np.testing.assert_array_equal(native["loss"], other["loss"])


LEARNER, STATE = PAIR


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: storage.tensor([1.0, 2.0]).tensor_split(10**30),
            RuntimeError,
            "number of sections",
        ),  # it never ended
        (lambda: storage.tensor(MASKED), TypeError, "masked"),
        (lambda: storage.tensor(jax.random.key(0)), TypeError, "data must be numbers"),
        (lambda: data.standardize(DATA), TypeError, "must be numbers; got a dict"),
        (
            lambda: storage.tensor(np.array([1], "timedelta64[h]")),
            TypeError,
            "data must be numbers",
        ),
        (lambda: storage.Layout((2**40, 2**40), (0, 0)), RuntimeError, "beyond 64 bits"),
        (
            lambda: train.run(STATE, LEARNER, DATA, epochs=1, batch_size=3),
            TypeError,
            "in this order",
        ),
        (
            lambda: train.run(*PAIR, DATA, epochs=1, batch_size=3, stop=5),
            TypeError,
            "stop must be",
        ),
        (
            lambda: train.run(*PAIR, DATA, epochs=10**30, batch_size=3),
            ValueError,
            "at most",
        ),  # it never ended
        (
            lambda: train.run(*PAIR, iter([DATA]), epochs=1, batch_size=3),
            TypeError,
            "read only once",
        ),
        (lambda: train.run(*PAIR, {"x": MASKED}, epochs=1, batch_size=3), TypeError, "masked"),
        (
            lambda: train.evaluate(*PAIR, {"x": jax.random.split(jax.random.key(0))}),
            TypeError,
            "encode it",
        ),
        (
            lambda: train.evaluate(*PAIR, {"x": np.array([2**40])}),
            OverflowError,
            "does not fit",
        ),
        (lambda: image.resize([[1, 2]], 3), ValueError, "image has shape"),
        (
            lambda: image.resize(np.ones((2, 2, 1), np.uint8), 10**30),
            ValueError,
            "size must be at most",
        ),
        (
            lambda: series.missing_times(["0001-01-01T00", "9999-01-01T00"], (1, "s")),
            ValueError,
            "more than",
        ),
        (lambda: text.encode(["mr"], {"mr": 2**40}), ValueError, "at most"),
    ],
)
def test_what_hung_or_was_another_number_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_header_that_announces_terabytes_is_refused_before_they_are_asked_for(tmp_path):
    path = tmp_path / "huge.mhd"
    fields = {
        "ObjectType": "Image",
        "NDims": 3,
        "DimSize": "9000 9000 9000",
        "ElementType": "MET_SHORT",
    }
    fields["ElementDataFile"] = "LOCAL"
    path.write_text("".join(f"{name} = {value}\n" for name, value in fields.items()))
    with pytest.raises(data.BrokenFile, match=r"bytes; \d+ are needed"):
        volume.read_mhd(path)
