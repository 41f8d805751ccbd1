"""Deployment

`jax.jit` traces a Python function, as `torch.jit.trace` does, and `jax.export` writes the traced program into bytes that
need none of the code that made it.
"""


# %% torch.jit.script
@torch.jit.script
def clipped(x, steps: int):
    for _ in range(steps):
        if x.sum() > 0:
            x = x - 0.5
        else:
            x = x * 2
    return x


clipped(x, 3)


# %% jax
# Traced code cannot branch on values by `if`: `cond`, `fori_loop`, `while_loop` and `scan` are part of the program. What
# shapes or Python's own loops depend on is static.
@functools.partial(jax.jit, static_argnames="steps")
def clipped(x, steps):
    def body(_, x):
        return jax.lax.cond(
            x.sum() > 0,
            lambda x: x - 0.5,
            lambda x: x * 2,
            x,
        )

    return jax.lax.fori_loop(0, steps, body, x)


clipped(x, 3)

# %% torch.jit.trace, torch.jit.load
net = nn.Sequential(nn.Softplus(), nn.Softmax(dim=1))
torch.jit.trace(net, torch.ones(1, 4)).save("net.pt")
torch.jit.load("net.pt")(y).detach()
# %% jax
# Weights are constants of the exported program. `symbolic_shape` leaves the batch size open; the bytes are kept readable
# for six months, by the same or a newer JAX. Needs `pip install flatbuffers`.
net = nn.Sequential(nn.Softplus(), nn.Softmax(dim=1))
rows = jax.export.symbolic_shape("n, 4")
program = jax.export.export(jax.jit(net))(
    jax.ShapeDtypeStruct(rows, jnp.float32)
)
Path("net.bin").write_bytes(program.serialize())
saved = jax.export.deserialize(Path("net.bin").read_bytes())
saved.call(y)
