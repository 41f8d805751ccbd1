"""Generation with a cache against the same model without one, called by torch or by hand;
positions against torch's arithmetic.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dlwp_jax import models, nn, parity
from tests.nn_parity import random


class GPT(nnx.Module):
    """A language model of torch's encoder, as one would write it."""

    def __init__(self, vocabulary, length, features, *, rngs):
        self.tokens = nn.Embedding(vocabulary, features, rngs=rngs)
        self.positions = nn.Embedding(length, features, rngs=rngs)
        layer = nn.TransformerEncoderLayer(
            features, 2, 16, 0.0, batch_first=True, norm_first=True, rngs=rngs
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(features), rngs=rngs)
        self.head = nn.Linear(features, vocabulary, rngs=rngs)

    def start(self, tokens, position):
        return self.tokens(tokens) + self.positions(position + jnp.arange(tokens.shape[1]))

    def __call__(self, tokens):
        return self.head(self.encoder(self.start(tokens, 0), is_causal=True))

    def make_cache(self, n, length):
        return self.encoder.make_cache(n, length)

    def decode(self, tokens, cache, position):
        x, cache = self.encoder.decode(self.start(tokens, position), cache, position)
        return self.head(x), cache


class TorchGPT(torch.nn.Module):
    def __init__(self, vocabulary, length, features):
        super().__init__()
        self.tokens = torch.nn.Embedding(vocabulary, features)
        self.positions = torch.nn.Embedding(length, features)
        layer = torch.nn.TransformerEncoderLayer(
            features, 2, 16, 0.0, batch_first=True, norm_first=True
        )
        norm = torch.nn.LayerNorm(features)
        self.encoder = torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
        self.head = torch.nn.Linear(features, vocabulary)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        mask = torch.nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.encoder(x, mask))


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(3)
    theirs, ours = TorchGPT(9, 16, 8), GPT(9, 16, 8, rngs=nnx.Rngs(0))
    with torch.no_grad():
        theirs.head.weight *= 8  # No two logits are close.
    parity.load_torch(ours, theirs)
    ours.eval()
    return theirs.eval(), ours


PROMPT = np.array([[1, 2, 3], [4, 0, 8]])


@torch.no_grad()
def torchs_greedy(theirs, tokens, prompt=PROMPT):
    """The whole text through torch's model for each new token."""
    text = torch.tensor(prompt)
    for _ in range(tokens):
        text = torch.cat([text, theirs(text)[:, -1:].argmax(-1)], 1)
    return text.numpy()


def test_greedy_generation_is_torchs(pair):
    theirs, ours = pair
    wanted = torchs_greedy(theirs, 10)
    np.testing.assert_array_equal(nn.generate(ours, PROMPT, 10), wanted)
    cold = nn.generate(ours, PROMPT, 10, key=jax.random.key(0), temperature=0)
    np.testing.assert_array_equal(cold, wanted)
    stop = int(wanted[0, 5])
    stopped = np.asarray(nn.generate(ours, PROMPT, 10, stop=stop))
    for ours_row, row in zip(stopped, wanted, strict=True):
        ends = np.flatnonzero(row[3:] == stop)
        end = 3 + ends[0] if len(ends) else len(row)
        np.testing.assert_array_equal(ours_row[:end], row[:end])
        assert (ours_row[end:] == stop).all()


def test_prompts_of_different_lengths_go_on_as_each_alone(pair):
    theirs, ours = pair
    prompts = np.array([[1, 2, 3, 4], [4, 0, 8, 8], [7, 8, 8, 8]])
    lengths = [4, 2, 1]
    rows = []
    for prompt, length in zip(prompts, lengths, strict=True):
        rows.append(torchs_greedy(theirs, 5, prompt[None, :length])[0])
    found = np.asarray(nn.generate(ours, prompts, 5, lengths=lengths))
    stop = int(rows[1][4])  # the third new token of the second row
    stopped = np.asarray(nn.generate(ours, prompts, 5, lengths=lengths, stop=stop))
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        np.testing.assert_array_equal(found[number], np.pad(row, (0, 9 - len(row))))
        ends = np.flatnonzero(row[length:] == stop)
        end = length + ends[0] if len(ends) else len(row)
        np.testing.assert_array_equal(stopped[number, :end], row[:end])
        assert (stopped[number, end:] == stop).all()
    compiled = jax.jit(lambda lengths: nn.generate(ours, prompts, 5, lengths=lengths))
    np.testing.assert_array_equal(compiled(jnp.array(lengths)), found)


class Translator(nnx.Module):
    """An encoder and a decoder, as one would write them."""

    def __init__(self, *, rngs):
        self.tokens = nn.Embedding(9, 8, rngs=rngs)
        self.transformer = nn.Transformer(8, 2, 1, 2, 12, 0.0, batch_first=True, rngs=rngs)
        self.head = nn.Linear(8, 9, rngs=rngs)

    def encode(self, tokens, padding):
        return self.transformer.encoder(self.tokens(tokens), src_key_padding_mask=padding)

    def start(self, tokens, padding, length):
        memory = self.encode(tokens, padding)
        return self.transformer.decoder.make_cache(memory, length), padding

    def decode(self, tokens, cache, position):
        layers, padding = cache
        x = self.tokens(tokens)
        x, layers = self.transformer.decoder.decode(x, layers, position, padding)
        return self.head(x), (layers, padding)


class TorchTranslator(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(9, 8)
        self.transformer = torch.nn.Transformer(8, 2, 1, 2, 12, 0.0, batch_first=True)
        self.head = torch.nn.Linear(8, 9)

    def forward(self, source, padding, target):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        x = self.transformer(
            self.tokens(source),
            self.tokens(target),
            tgt_mask=mask,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.head(x)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoders_output_is_decoded_as_by_torch():
    torch.manual_seed(5)  # no two logits are close
    theirs, ours = TorchTranslator().eval(), Translator(rngs=nnx.Rngs(0))
    with torch.no_grad():
        theirs.tokens.weight *= 4
        theirs.head.weight *= 8
    parity.load_torch(ours, theirs)
    source = np.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    padding = source == 0
    text = torch.tensor([[1], [1]])
    given = torch.tensor(source), torch.tensor(padding)
    with torch.no_grad():
        for _ in range(6):
            text = torch.cat([text, theirs(*given, text)[:, -1:].argmax(-1)], 1)
    cache = ours.start(jnp.asarray(source), jnp.asarray(padding), 7)
    found = nn.generate(ours, np.ones((2, 1), int), 6, cache=cache)
    np.testing.assert_array_equal(found, text)
    assert len(np.unique(text)) > 3  # a text that says something


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_decoder_layer_in_parts_is_torchs(batch_first):
    options = {"batch_first": batch_first, "norm_first": batch_first, "dropout": 0.0}
    theirs = torch.nn.TransformerDecoderLayer(8, 2, 12, **options).eval()
    ours = nn.TransformerDecoderLayer(8, 2, 12, **options, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    ours.eval()
    turn = (0, 1, 2) if batch_first else (1, 0, 2)
    x, memory = (random(2, length, 8).transpose(turn) for length in (5, 3))
    padding = np.array([[False, False, True], [False, True, False]])
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5)
    given = torch.tensor(x), torch.tensor(memory)
    with torch.no_grad():
        wanted = theirs(*given, mask, memory_key_padding_mask=torch.tensor(padding))
    cache, parts, axis = ours.make_cache(memory, 5), [], turn.index(1)
    for first, last in ((0, 3), (3, 4), (4, 5)):
        part = x.take(range(first, last), axis)
        decode = jax.jit(
            lambda part, cache, first=first: ours.decode(part, cache, first, padding)
        )
        part, cache = decode(part, cache)
        parts.append(part)
    found = np.concatenate(parts, axis)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_drawn_tokens_follow_the_models_own_probabilities(pair):
    theirs, ours = pair
    drawn = nn.generate(ours, np.repeat(PROMPT[:1], 4000, 0), 1, key=jax.random.key(1))
    with torch.no_grad():
        shares = theirs(torch.tensor(PROMPT[:1]))[0, -1].softmax(-1).numpy()
    found = np.bincount(np.asarray(drawn[:, -1]), minlength=9) / 4000
    np.testing.assert_allclose(found, shares, atol=4 * np.sqrt(0.25 / 4000))


def torchs_support(logits, temperature, top_k, top_p):
    """The probabilities after both cuts, as PyTorch programs write them."""
    logits = torch.tensor(logits) / temperature
    if top_k is not None:
        logits[logits < logits.topk(top_k)[0][..., -1:]] = -torch.inf
    if top_p is not None:
        falling, order = logits.sort(descending=True)
        shares = falling.softmax(-1)
        gone = shares.cumsum(-1) - shares >= top_p
        logits[order[gone]] = -torch.inf
    return logits.softmax(-1).numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 3},
        {"top_p": 0.7, "temperature": 2.0},
        {"top_k": 5, "top_p": 0.9, "temperature": 0.5},
    ],
    ids=str,
)
def test_cuts_of_the_distribution(options):
    logits = random(12)
    shares = torchs_support(
        logits, **{"temperature": 1.0, "top_k": None, "top_p": None, **options}
    )
    drawn = nn.next_token(np.repeat(logits[None], 20000, 0), jax.random.key(0), **options)
    found = np.bincount(np.asarray(drawn), minlength=12) / 20000
    np.testing.assert_array_equal(found > 0, shares > 1e-3)
    np.testing.assert_allclose(found, shares, atol=4 * np.sqrt(0.25 / 20000))


def test_what_generation_refuses(pair):
    _, ours = pair
    with pytest.raises(ValueError, match="top_p=0 is above 0"):
        nn.generate(ours, PROMPT, 1, key=jax.random.key(0), top_p=0)
    with pytest.raises(ValueError, match="P at least 1"):
        nn.generate(ours, PROMPT[:, :0], 1)
    with pytest.raises(ValueError, match="2 prompts have 2 lengths"):
        nn.generate(ours, PROMPT, 1, lengths=[1])
    with pytest.raises(ValueError, match="from 0 to 4; these prompts have 1 to 3"):
        nn.generate(ours, PROMPT, 1, lengths=[0, 4])
    with pytest.raises(ValueError, match="the model has 11 positions; 13"):
        nn.generate(models.SequenceTransformer(9, 11, rngs=nnx.Rngs(0)), PROMPT, 10)
    layer = nn.MultiheadAttention(4, 1, add_bias_kv=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="has no place for add_bias_kv"):
        layer.make_cache(1, 3)
    with pytest.raises(ValueError, match="has no place for add_bias_kv"):
        layer.project(jnp.ones((3, 1, 4)), jnp.ones((3, 1, 4)))
    layer = nn.MultiheadAttention(4, 1, batch_first=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="has 3 places; 2 positions"):
        layer.decode(jnp.ones((1, 2, 4)), layer.make_cache(1, 3), 2)


# Positions


def test_sinusoidal_positions():
    """The loop of the paper's formula, in float64."""
    table = np.zeros((50, 6))
    for position in range(50):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            table[position, 2 * i], table[position, 2 * i + 1] = np.sin(angle), np.cos(angle)
    np.testing.assert_allclose(nn.sinusoidal_positions(50, 6), table, atol=1e-5)
    for function in (
        nn.sinusoidal_positions,
        lambda n, size: nn.sinusoidal_embedding(1.0, size),
    ):
        with pytest.raises(ValueError, match="must be even"):
            function(4, 5)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_positions(interleaved):
    """A turn is a product of complex numbers, as torch programs write it."""
    x = random(2, 3, 7, 6)
    positions = np.arange(7) + 4
    angles = positions[:, None] / 10000 ** (np.arange(3) / 3)
    turns = torch.polar(torch.ones(7, 3).double(), torch.tensor(angles))
    given = torch.tensor(x.astype(np.float64))
    paired = given.unflatten(-1, (3, 2)) if interleaved else given.unflatten(-1, (2, 3)).mT
    turned = torch.view_as_real(torch.view_as_complex(paired.contiguous()) * turns)
    wanted = (turned if interleaved else turned.mT).flatten(-2)
    ours = nn.rotary(x, positions, interleaved=interleaved)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_draws_from_equal_logits_of_16_bits_favour_no_token():
    """A uniform draw of 1000 tokens has the mean 499.5; 5 standard errors of 4000 draws."""
    logits = jnp.zeros((4000, 1000), jnp.bfloat16)
    drawn = nn.next_token(logits, jax.random.key(0))
    assert abs(float(drawn.mean()) - 499.5) < 5 * 1000 / (12 * 4000) ** 0.5


def test_a_cache_that_is_too_short_is_refused(pair):
    _, ours = pair
    with pytest.raises(ValueError, match="the cache has 4 places"):
        nn.generate(ours, jnp.zeros((1, 3), int), 5, cache=ours.make_cache(1, 4))
