"""Attention and transformers (chapter 9 of the second edition) beside torch's fastest form

Training steps, and text one token after the other, in float32. *MultiheadAttention* is output
and all gradients of self-attention without weights, 8 sequences of 128 positions and 256
features, 8 heads. *GPT* is a training step by SGD of 6
layers, 64 features, 4 heads, batches of 64. *Generation* adds 256 tokens to 8 texts: here with
a cache as one program, in torch with a cache of its own in a Python loop. torch has all its
threads. *Memory* is the space for the gradient of causal attention, 8 heads of 16 features,
beside arguments and results, as XLA tells it.

The goals were 0.45, 0.7 and 0.35 of torch for the first three rows, and are missed. On this
machine torch and XLA multiply equally fast (1024 x 256 by 256 x 768: 2.2 ms here, 2.0 to 2.9
there), so the linear maps, half of the work, have a ratio of 1. The rest, attention itself, is
one fused kernel in torch (8 x 8 heads x 128 x 32, forward and backward: 4.0 ms); here it is
three passes over the weights (5.9). What helped: linear maps of three axes as one matrix, and
the gradient of softmax from its weights (GPT, 64 tokens: 86 to 64 ms a step). What did not:
weights computed again in the backward pass, masks added or multiplied, one product for
queries, keys and values (5 % at best).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import nnx
from timing import interleaved, readable

from dlwp_jax import losses, models, nn, parity, train

TOKENS, HEADS, FEATURES, LAYERS = 27, 4, 64, 6


class Block(torch.nn.Module):
    """The book's block in torch's fastest form: fused attention."""

    def __init__(self):
        super().__init__()
        for name in ("query_proj", "key_proj", "value_proj"):
            setattr(self, name, torch.nn.Linear(FEATURES, FEATURES))
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, FEATURES),
            torch.nn.ReLU(),
            torch.nn.Linear(FEATURES, FEATURES),
        )
        self.norm_1 = torch.nn.LayerNorm(FEATURES)
        self.norm_2 = torch.nn.LayerNorm(FEATURES)

    def forward(self, x, cache=None):
        parts = (self.query_proj(x), self.key_proj(x), self.value_proj(x))
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        if cache is not None:
            if cache:
                k, v = (torch.cat(pair, 2) for pair in zip(cache, (k, v), strict=True))
            cache[:] = [k, v]
        causal = x.shape[1] > 1
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = self.norm_1(x + attended.transpose(1, 2).flatten(2))
        return self.norm_2(x + self.mlp(x))


class GPT(torch.nn.Module):
    def __init__(self, length):
        super().__init__()
        self.char_embedding = torch.nn.Embedding(TOKENS, FEATURES)
        self.positional_embedding = torch.nn.Embedding(length, FEATURES)
        self.transformer_blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.output_proj = torch.nn.Linear(FEATURES, TOKENS)

    def forward(self, tokens, caches=None, position=0):
        places = torch.arange(position, position + tokens.shape[1])
        x = self.char_embedding(tokens) + self.positional_embedding(places)
        for number, block in enumerate(self.transformer_blocks):
            x = block(x, None if caches is None else caches[number])
        return self.output_proj(x)


def pair(length):
    theirs, ours = GPT(length), models.SequenceTransformer(TOKENS, length, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    return theirs, ours


def attention():
    theirs = torch.nn.MultiheadAttention(256, 8, batch_first=True)
    ours = nn.MultiheadAttention(256, 8, batch_first=True, rngs=nnx.Rngs(0))
    parity.load_torch(ours, theirs)
    x = np.random.default_rng(0).standard_normal((8, 128, 256)).astype(np.float32)
    graph, params, rest = nnx.split(ours, nnx.Param, ...)

    @jax.jit
    def step(params, x, cotangent):
        def run(params, x):
            return nnx.merge(graph, params, rest, copy=True)(x, x, x, need_weights=False)[0]

        y, pull = jax.vjp(run, params, x)
        return y, pull(cotangent)

    given, there = jnp.asarray(x), torch.tensor(x, requires_grad=True)

    def torchs():
        theirs.zero_grad(set_to_none=True)
        there.grad = None
        theirs(there, there, there, need_weights=False)[0].backward(there.detach())

    def here():
        return jax.block_until_ready(step(params, given, given))

    return {"ours": here, "torch": torchs}


def loss_fn(model, batch):
    logits = model(batch["x"])
    return losses.cross_entropy(logits.reshape(-1, TOKENS), batch["y"].reshape(-1)), {}


def training(length, steps=10):
    """Steps of training on the same batch, as one program here."""
    theirs, ours = pair(length)
    tokens = np.random.default_rng(0).integers(0, TOKENS, (64 * steps, length + 1))
    data = {"x": jnp.asarray(tokens[:, :-1]), "y": jnp.asarray(tokens[:, 1:])}
    learner, state = train.make_learner(ours, loss_fn, optax.sgd(0.1), key=jax.random.key(0))
    rows = torch.tensor(tokens).split(64)
    opt = torch.optim.SGD(theirs.parameters(), 0.1)

    def torchs():
        for batch in rows:
            opt.zero_grad()
            logits = theirs(batch[:, :-1])
            F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
            opt.step()

    def here():
        found = train.train_epoch(learner, state, data, batch_size=64)
        return jax.block_until_ready(found)

    return {"ours": here, "torch": torchs}


def generation(tokens=256):
    theirs, ours = pair(tokens + 1)
    ours.eval()
    start = jnp.zeros((8, 1), jnp.int32)

    @torch.no_grad()
    def torchs():
        text = torch.zeros(8, 1, dtype=torch.long)
        caches = [[] for _ in range(LAYERS)]
        for position in range(tokens):
            logits = theirs(text[:, -1:], caches, position)
            text = torch.cat([text, logits[:, -1].argmax(-1, keepdim=True)], 1)
        return text

    def here():
        return jax.block_until_ready(nn.generate(ours, start, tokens))

    return {"ours": here, "torch": torchs}


def memory(length):
    x = jax.ShapeDtypeStruct((1, 8, length, 16), jnp.float32)

    def loss(q, k, v):
        return nn.scaled_dot_product_attention(q, k, v, is_causal=True).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    found = compiled.memory_analysis()
    return f"{found.temp_size_in_bytes / 2**20:.0f} MiB" if found else "not told"


def measure() -> list[dict[str, str]]:
    cases = {
        "MultiheadAttention, 8 x 128 x 256": attention(),
        "GPT, 64 tokens, 10 steps": training(64),
        "GPT, 10 tokens, 10 steps": training(10),
        "generation of 256 tokens": generation(),
    }
    rows = []
    for what, forms in cases.items():
        times = interleaved(forms, rounds=11)
        shown = {name: readable(seconds) for name, seconds in times.items()}
        ratio = f"{times['ours'] / times['torch']:.2f}"
        rows.append({"what": what, **shown, "ours / torch": ratio})
    for length in (4096, 8192):
        rows.append(
            {
                "what": f"memory, {length} positions",
                "ours": memory(length),
                "torch": "",
                "ours / torch": "",
            }
        )
    return rows
