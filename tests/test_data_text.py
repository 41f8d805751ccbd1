import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlwp_jax.data import BrokenFile, text

ascii_text = st.text(st.characters(max_codepoint=127))


@given(ascii_text)
def test_ascii_round_trips(line):
    rows = text.one_hot_characters(line)
    assert rows.shape == (len(line), 128)
    assert text.decode_characters(rows) == line


@given(st.text())
def test_characters_beyond_ascii_go_where_they_are_sent(line):
    expected = [ord(c) if ord(c) < 128 else 0 for c in line]  # the book's rule
    assert text.one_hot_characters(line, unknown=0).argmax(-1).tolist() == expected


def test_characters_beyond_ascii_are_refused_by_name():
    with pytest.raises(ValueError, match="text has '“' at 3"):
        text.one_hot_characters("ab “c")


@given(st.lists(st.text("abcdef", min_size=1), min_size=1))
def test_words_round_trip(words):
    codes = text.vocabulary(words)
    assert list(codes.values()) == list(range(len(set(words))))
    assert text.decode(text.encode(words, codes), codes) == words


def test_unknown_words():
    codes = text.vocabulary(["a", "b"])
    with pytest.raises(ValueError, match="words has 'c', which is not among the 2 words"):
        text.encode(["a", "c"], codes)
    assert text.encode(["a", "c"], codes, unknown=2).tolist() == [0, 2]


def test_words_are_cleaned_as_in_the_book():
    assert text.clean_words("“_You_ want--\nto TELL me; eh?”") == [
        "you",
        "want",
        "to",
        "tell",
        "me",
        "eh",
    ]


def test_embedding_is_the_one_hot_product_and_torchs():
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    numbers = np.array([[4, 0], [2, 2]])
    reference = torch.tensor(vectors, requires_grad=True)
    looked_up = torch.nn.functional.embedding(torch.tensor(numbers), reference)
    looked_up.square().sum().backward()
    for form in (text.embed, jax.jit(text.embed)):
        np.testing.assert_array_equal(form(vectors, numbers), looked_up.detach())
    gradient = jax.grad(lambda v: jnp.sum(text.embed(v, numbers) ** 2))(vectors)
    np.testing.assert_array_equal(gradient, reference.grad)  # sums of two equal numbers: exact
    from dlwp_jax.data.table import one_hot

    np.testing.assert_allclose(one_hot(numbers, 5) @ vectors, looked_up.detach(), rtol=1e-6)


@pytest.mark.parametrize("number", [5, -1])
def test_embedding_out_of_range_is_nan_not_another_word(number):
    assert np.isnan(text.embed(np.ones((5, 3)), np.array(number))).all()


def test_other_encodings_are_refused(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("Naïve".encode("latin-1"))
    with pytest.raises(BrokenFile, match=r"x\.txt cannot be read as text in utf-8"):
        text.read(path)
    assert text.read(path, encoding="latin-1") == "Naïve"


def test_numbers_that_are_no_codes_are_refused():
    codes = {"bennet": 0, "mr": 1}
    with pytest.raises(ValueError, match="numbers has 7, which is no code"):
        text.decode([1, 7], codes)
    with pytest.raises(TypeError, match="integers"):
        text.decode([0.5], codes)
    with pytest.raises(TypeError, match="numbers are float32"):
        text.embed(np.ones((2, 3)), np.float32([0, 1]))
    with pytest.raises(TypeError, match="vectors are int"):
        text.embed(np.ones((2, 3), int), [5])
