"""The networks of chapters 6 to 8, 11 and 13, and a ResNet: training steps beside torch's

The data are random: pictures of CIFAR's shape in batches of 64, and for chapter 11 volumes of
32 x 48 x 48 in batches of 4, for chapter 13 slices of 64 x 64 with their neighbours in batches
of 16. The optimizer is SGD.

- *dlwp_jax* is the network as a user writes it (`nn.Conv2d`, `tanh`, `nn.max_pool`), trained by
  `train.train_epoch`: one program that also shuffles, gathers and checks for finite numbers.
- *The book's torch* is the book's loop: a `DataLoader` over a list of tensors, channels first,
  torch's own number of threads, `loss.item()` after every step.
- *Best torch* is the fastest of these forms: channels first and last, one thread and all,
  compiled or not, with the tensors in memory.
- *First call* includes tracing and compiling; the other figures do not.
- *Share of peak* compares the step's products (counted by torch's flop counter) with the rate
  of a 2048 x 2048 float32 matrix product in the same run.
- Eight conv nets run one after the other by `lax.map`; 64 small nets run together by `vmap`.

On a GPU the torch forms are eager, `torch.compile`, and `torch.compile` with CUDA graphs. This
branch has not run yet, since no GPU was at hand.

**Notes.** Convolutions are calls of `nn/xla_cpu/convolution.cc`. One core of this machine (an
EPYC with AVX-512) adds and multiplies 116 GFLOP/s. Layer by layer on one core, in GFLOP/s,
zeros of the padding counted (torch in brackets, the best layout):

- ResNet-18, 3 x 3 with 64, 128, 256 and 512 channels: output 107, 113, 115, 108 (112, 114, 118,
  121), gradient of the input 107, 111, 114, 104 (110, 114, 116, 121), of the kernel 108, 110,
  104, 90 (98, 103, 105, 82). With stride 2: 93 to 109 (98 to 106). The first layer, 7 x 7: 91
  (102), its kernel 103 (86).
- Residual block, 32 channels at 16 x 16: 112, 110, 108 (104, 103, 99).
- LunaModel, 1 and 8 channels at 32 x 48 x 48: 64, 30, 36 (36, 7, 38) and 89, 89, 89 (55, 55,
  51); 64 channels at 4 x 6 x 6, most of whose windows reach over the border: 147, 146, 114
  (157, 158, 134).
- U-Net, 16 channels at 64 x 64: 104, 103, 103 (101, 100, 98).

What made a difference: the address of each place as a chain of additions, which keeps the
compiler from spilling sums and addresses (1.07 to 1.3); rows of the padding left out (1.1 to
1.4 in small volumes); depths copied once (1.1 in volumes); results of one channel as scalar
products (3.5, the gradient by LunaModel's input); panels of the kernel for each task, so that
512 channels are read once (1.25); sums of the kernel's gradient in the order of the panels (1.2
with 512 channels). What did not: kernels packed by every task for itself (0.6 to 0.95),
scattered stores of a transposed kernel (0.8).

The rest of a step is not convolution. Of the processor time of an epoch of two steps through 20
residual blocks, 60 % is, 16 % are loops that XLA compiles (batch norm, rectifier, update), 6 %
its sums and products, 8 % copies (of rows for convolutions, and into and out of the scan's
stack), and 10 % the system's: XLA asks for a program's memory at every call and the system
clears it, where torch keeps its own. So a call for one step is dearer than a step of an epoch:
U-Net took 1.12 of torch's processor time in calls of 2 steps and 0.99 in calls of 8, ResNet-18
1.04 in calls of one step. Large pages (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1` in the
environment, before Python starts) took 12 % of the processor time of the residual blocks away;
the tables are without. 20 unrolled blocks were no faster than the scan.

Without a compiler, or with `DLWP_NATIVE=0`, convolutions are XLA's, and three forms help it
on one core (`nn/xla_cpu/forms.py`):

- Pictures of few channels are a matrix product, two columns at a time (3 to 16 channels,
  forward and kernel gradient: 6.3 ms -> 3.8; 3 to 32: 12.6 -> 6.3).
- Few output channels are computed several columns at a time (16 to 8: 1.65 ms -> 1.05).
- Volumes are sums of convolutions of pictures (2 to 16 times as fast).

One more output row, which makes YNNPACK decline, brought 20 residual blocks from 2.3 to 1.6 of
torch's time on two cores. It is not used any more: on one core it took 1.2 to 3 times as long.

*Fully connected.* The products take as long as torch's. The rest are passes over 3.7 million
parameters: the update alone takes 4.8 ms of an epoch, and the check for finite parameters makes
it write them (6.3), read them (3.7) and choose (9.4). Other forms of the check were slower.
"""

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from timing import Rounds, first_call, interleaved, readable
from torch.utils.flop_counter import FlopCounterMode

from dlwp_jax import losses, models, nn, train
from dlwp_jax.train.step import step as train_step
from tests.reference import book_networks as reference
from tests.reference.imagenet_networks import ResNet

BATCH, STEPS, RATE = 64, 8, 1e-2
HAS_CUDA = torch.cuda.is_available() and jax.default_backend() == "gpu"
DEVICE = torch.device("cuda" if HAS_CUDA else "cpu")
THREADS = sorted({1, torch.get_num_threads()})
Forms = dict[str, Callable[[], object]]


def pictures(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 32, 32, 3)).astype(np.float32), rng.integers(0, 2, n).astype(
        np.int32
    )


# --- ours


def loss_fn(model, batch):
    return losses.cross_entropy(model(batch[0]), batch[1]), {}


def learn(model: nnx.Module):
    return train.make_learner(model, loss_fn, optax.sgd(RATE), key=jax.random.key(0))


def our_epoch(model: nnx.Module, x, y, batch: int = BATCH):
    learner, state = learn(model)
    data = jnp.asarray(x), jnp.asarray(y)
    jitted = jax.jit(
        lambda state, data: train.train_epoch(learner, state, data, batch_size=batch)
    )
    return lambda: jax.block_until_ready(jitted(state, data))


def our_loop(model: nnx.Module, x, y):
    """The same steps, each a call of its own from Python, its rows gathered inside."""
    learner, state = learn(model)
    data, alive, rng = (
        (jnp.asarray(x), jnp.asarray(y)),
        jnp.array(True),
        np.random.default_rng(0),
    )

    @jax.jit
    def step(state, data, rows):
        return train_step(
            learner, state, jax.tree.map(lambda a: a[rows], data), state.key, alive
        )[0]

    def run():
        after, order = state, rng.permutation(len(x))
        for rows in np.split(order, len(x) // BATCH):
            after = step(after, data, rows)
        return jax.block_until_ready(after)

    return run


def bare_epoch(model: nnx.Module, x, y):
    """A scan of gradient and update over shuffled rows: `train_epoch` without its check for
    finite numbers.
    """
    learner, state = learn(model)
    data = jnp.asarray(x), jnp.asarray(y)

    def step(params, rows):
        batch = jax.tree.map(lambda a: a[rows], data)
        loss, grads = jax.value_and_grad(
            lambda p: learner.loss(state, p, batch, state.key, train=True)[0]
        )(params)
        return jax.tree.map(lambda p, g: p - RATE * g, params, grads), loss

    @jax.jit
    def epoch(params, key):
        return jax.lax.scan(
            step, params, jax.random.permutation(key, len(x)).reshape(-1, BATCH)
        )

    return lambda: jax.block_until_ready(epoch(state.params, state.key))


class SpecialConvNet(nn.ConvNet):
    """The same function in fewer operations: pooled before tanh, which keeps the order of its
    inputs.
    """

    def __call__(self, x):  # [n 32 32 3] -> [n 2]
        for layer in (self.conv1, self.conv2):
            x = jnp.tanh(nn.max_pool(layer(x), 2))
        return self.fc2(jnp.tanh(self.fc1(nn.flatten(x))))


# --- torch


@dataclasses.dataclass(frozen=True)
class TorchForm:
    threads: int
    channels_last: bool = False
    compiled: str | None = None  # a mode of torch.compile

    def __str__(self) -> str:
        where = "cuda" if HAS_CUDA else f"{self.threads} thread{'s' * (self.threads > 1)}"
        layout = "channels last" if self.channels_last else "channels first"
        return ", ".join(
            [where, layout] + [f"torch.compile {self.compiled}"] * (self.compiled is not None)
        )


def torch_forms(images: bool, compiled: bool) -> Iterable[TorchForm]:
    """On a GPU: eager, compiled, compiled into CUDA graphs. On a CPU: layouts and threads, and
    compiled where asked.
    """
    layouts = (False, True) if images else (False,)
    threads = THREADS[:1] if HAS_CUDA else THREADS
    yield from itertools.starmap(TorchForm, itertools.product(threads, layouts))
    is_short = Rounds.most < 9
    if compiled and shutil.which("g++") and not is_short:
        modes = ("default", "reduce-overhead") if HAS_CUDA else ("default",)
        yield from (TorchForm(threads[-1], layouts[-1], mode) for mode in modes)


def torch_epoch(model: torch.nn.Module, x, y, form: TorchForm, batch: int = BATCH):
    """Shuffled minibatches of tensors in memory."""
    channels_last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    memory = channels_last if form.channels_last else torch.contiguous_format
    x, y = torch.tensor(x).to(DEVICE, memory_format=memory), torch.tensor(y).long().to(DEVICE)
    model = model.to(DEVICE, memory_format=memory)
    opt = torch.optim.SGD(model.parameters(), lr=RATE)
    forward = torch.compile(model, mode=form.compiled) if form.compiled else model

    def run():
        torch.set_num_threads(form.threads)
        order = torch.randperm(len(x), device=DEVICE)
        for rows in order.split(batch):
            opt.zero_grad()
            torch.nn.functional.cross_entropy(forward(x[rows]), y[rows]).backward()
            opt.step()
        if HAS_CUDA:
            torch.cuda.synchronize()

    return run


def book_epoch(model: torch.nn.Module, x, y, batch: int = BATCH):
    """The book's loop, in our words."""
    pairs = [(torch.tensor(image), int(label)) for image, label in zip(x, y, strict=True)]
    loader = torch.utils.data.DataLoader(pairs, batch_size=batch, shuffle=True)
    model, opt = model.to(DEVICE), torch.optim.SGD(model.parameters(), lr=RATE)
    loss_fn = torch.nn.CrossEntropyLoss()

    def run():
        torch.set_num_threads(THREADS[-1])
        total = 0.0
        for images, labels in loader:
            loss = loss_fn(model(images.to(DEVICE)), labels.to(DEVICE))
            opt.zero_grad()
            loss.backward()
            opt.step()
            total += loss.item()
        return total

    return run


def torch_side(
    make: Callable[[], torch.nn.Module], x, y, *, compiled: bool, batch: int = BATCH
) -> Forms:
    images = x.ndim >= 4
    x = np.moveaxis(x, -1, 1) if images else x
    forms = {
        f"torch: {form}": torch_epoch(make(), x, y, form, batch)
        for form in torch_forms(images, compiled)
    }
    return forms | {"book": book_epoch(make(), x, y, batch)}


def products(model: torch.nn.Module, x, batch: int = BATCH) -> float:
    """Floating point operations of forward and backward over all of x, as torch counts them for
    one batch.
    """
    counter, seen = FlopCounterMode(display=False), x[:batch]
    with counter:
        model(torch.tensor(np.moveaxis(seen, -1, 1) if x.ndim >= 4 else seen)).sum().backward()
    return counter.get_total_flops() * len(x) / batch


# --- the table


def row(
    what: str,
    times: dict[str, float],
    first: float,
    target: float,
    flops: float | None,
    peak: float,
):
    theirs = {name: seconds for name, seconds in times.items() if name.startswith("torch")}
    best = min(theirs, key=theirs.__getitem__)
    return told(
        what,
        times["ours"],
        times["ours"] / theirs[best],
        target,
        first=first,
        book=times.get("book"),
        best=f"{readable(theirs[best])} ({best.removeprefix('torch: ')})",
        share="" if flops is None else f"{flops / times['ours'] / peak:.0%}",
    )


def told(
    what: str,
    ours: float,
    ratio: float,
    target: float,
    *,
    first=None,
    book=None,
    best="",
    share="",
):
    """A row: the ratio, its target, and whether it is met."""
    return {
        "work": what,
        "dlwp_jax": readable(ours),
        "first call": "" if first is None else readable(first),
        "the book's torch": "" if book is None else readable(book),
        "best torch, or what it is compared with": best,
        "ratio": f"{ratio:.2f}",
        "target": f"{target:.2f}",
        "met": "yes" if ratio <= target else "no",
        "share of peak": share,
    }


def matmul_rate() -> float:
    a = jnp.ones((2048, 2048))
    product = jax.jit(jnp.matmul)
    return (
        2 * 2048**3 / interleaved({"": lambda: product(a, a).block_until_ready()}, rounds=7)[""]
    )


def conv_net(peak: float) -> list[dict[str, str]]:
    x, y = pictures(BATCH * STEPS)
    forms = {
        "ours": our_epoch(nn.ConvNet(rngs=nnx.Rngs(0)), x, y),
        "loop": our_loop(nn.ConvNet(rngs=nnx.Rngs(0)), x, y),
        "special": our_epoch(SpecialConvNet(rngs=nnx.Rngs(0)), x, y),
    }
    first = first_call(forms["ours"])
    times = interleaved(forms | torch_side(reference.ConvNet, x, y, compiled=True), rounds=9)
    what = f"conv net (chapter 8), epoch of {STEPS} steps"
    special, loop = times["special"], times["loop"]
    in_special_form = row(
        "the same, pooled before tanh", times | {"ours": special}, first, 0.6, None, peak
    )
    return [
        row(what, times, first, 0.6, products(reference.ConvNet(), x), peak),
        in_special_form | {"first call": "", "the book's torch": ""},
        told(
            "as a user writes it / special form",
            times["ours"],
            times["ours"] / special,
            1.5,
            best=readable(special),
        ),
        told(
            "inside scan / Python loop over steps",
            times["ours"],
            times["ours"] / loop,
            1.0,
            best=readable(loop),
        ),
    ]


def fully_connected(peak: float) -> list[dict[str, str]]:
    x, y = pictures(BATCH * STEPS)
    x, widths = x.reshape(len(x), -1), (3072, 1024, 512, 128, 2)
    rngs = nnx.Rngs(0)

    def layers(linear, tanh):
        pairs = list(itertools.pairwise(widths))
        return [
            part
            for a, b in pairs
            for part in ((linear(a, b), tanh()) if b != widths[-1] else (linear(a, b),))
        ]

    model = nn.Sequential(*layers(lambda a, b: nn.Linear(a, b, rngs=rngs), nn.Tanh))
    forms = {"ours": our_epoch(model, x, y), "bare": bare_epoch(model, x, y)}

    def theirs():
        return torch.nn.Sequential(*layers(torch.nn.Linear, torch.nn.Tanh))

    first = first_call(forms["ours"])
    times = interleaved(forms | torch_side(theirs, x, y, compiled=True), rounds=9)
    what, flops = f"{'-'.join(map(str, widths))}, epoch of {STEPS} steps", products(theirs(), x)
    bare = row(
        "the same as a bare scan", times | {"ours": times["bare"]}, first, 0.66, flops, peak
    )
    return [
        row(what, times, first, 0.66, flops, peak),
        bare | {"first call": "", "the book's torch": ""},
    ]


def residual(peak: float, n_blocks: int = 100, steps: int = 2) -> list[dict[str, str]]:
    """Several steps: torch keeps its memory, but XLA asks the system for it at every call."""
    x, y = pictures(BATCH * steps)
    model = nn.NetResDeep(n_blocks=n_blocks, rngs=nnx.Rngs(0))
    model.resblocks = nn.LayerStack(*model.resblocks)
    ours = our_epoch(model, x, y)
    first = first_call(ours)

    def theirs():
        return reference.NetResDeep(n_blocks=n_blocks)

    times = interleaved({"ours": ours} | torch_side(theirs, x, y, compiled=False), rounds=3)
    return [
        row(
            f"{n_blocks} residual blocks, {steps} steps",
            times,
            first,
            0.95,
            products(theirs(), x),
            peak,
        )
    ]


class OurLogits(nn.LunaModel):
    def __call__(self, x):
        return super().__call__(x)[0]


class TheirLogits(reference.LunaModel):
    def forward(self, x):
        return super().forward(x)[0]


def volumes(peak: float, batch: int = 4, steps: int = 4) -> list[dict[str, str]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch * steps, 32, 48, 48, 1)).astype(np.float32)
    y = rng.integers(0, 2, len(x)).astype(np.int32)
    ours = our_epoch(OurLogits(rngs=nnx.Rngs(0)), x, y, batch)
    first = first_call(ours)
    times = interleaved(
        {"ours": ours} | torch_side(TheirLogits, x, y, compiled=False, batch=batch), rounds=5
    )
    flops = products(TheirLogits(), x, batch)
    return [
        row(
            f"LunaModel (chapter 11), {steps} steps of {batch} volumes",
            times,
            first,
            0.95,
            flops,
            peak,
        )
    ]


class OurMask(nn.UNetWrapper):
    """The mean of the mask as logits, so the loss is the same as for the other networks."""

    def __call__(self, x):
        mean = super().__call__(x).mean((1, 2))
        return jnp.concatenate([mean, -mean], -1)


class TheirMask(reference.UNetWrapper):
    def forward(self, x):
        mean = super().forward(x).mean((2, 3))
        return torch.cat([mean, -mean], -1)


def masks(peak: float, batch: int = 16, steps: int = 2) -> list[dict[str, str]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch * steps, 64, 64, 7)).astype(np.float32)
    y = rng.integers(0, 2, len(x)).astype(np.int32)
    size = {"depth": 3, "wf": 4, "padding": True, "batch_norm": True}
    ours = our_epoch(OurMask(7, **size, rngs=nnx.Rngs(0)), x, y, batch)
    first = first_call(ours)
    theirs = torch_side(TheirMask, x, y, compiled=False, batch=batch)
    times = interleaved({"ours": ours} | theirs, rounds=5)
    what = f"U-Net (chapter 13), {steps} steps of {batch} slices of 64 x 64"
    return [row(what, times, first, 0.95, products(TheirMask(), x, batch), peak)]


def photographs(peak: float, batch: int = 8, steps: int = 4) -> list[dict[str, str]]:
    """More than one step, as in `residual`."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch * steps, 224, 224, 3)).astype(np.float32)
    y = rng.integers(0, 1000, len(x)).astype(np.int32)
    ours = our_epoch(models.resnet18(rngs=nnx.Rngs(0)), x, y, batch)
    first = first_call(ours)

    def resnet18():
        return ResNet((2, 2, 2, 2), bottleneck=False)

    theirs = torch_side(resnet18, x, y, compiled=False, batch=batch)
    times = interleaved({"ours": ours} | theirs, rounds=5)
    flops = products(resnet18(), x, batch)
    what = f"ResNet-18, batches of {batch} photographs of 224 x 224"
    return [row(what, times, first, 1.0, flops, peak)]


def small_nets(members: int = 64, epochs: int = 100) -> list[dict[str, str]]:
    """1-8-1 tanh nets on eleven points; torch as one net of three-dimensional weights, and as
    torch.func has it.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((11, 1)).astype(np.float32)
    y = np.tanh(x)

    def member(key):
        rngs = nnx.Rngs(key)
        model = nn.Sequential(nn.Linear(1, 8, rngs=rngs), nn.Tanh(), nn.Linear(8, 1, rngs=rngs))
        learner, state = train.make_learner(model, squared_error, optax.sgd(RATE), key=key)
        return train.run(learner, state, (x, y), epochs=epochs, batch_size=len(x)).history[
            "train/loss"
        ]

    keys = jax.random.split(jax.random.key(0), members)
    jitted = jax.jit(jax.vmap(member))
    forms: Forms = {"ours": lambda: jitted(keys).block_until_ready()}
    first = first_call(forms["ours"])
    for threads in THREADS:
        forms[f"torch: bmm, {threads} threads"] = torch_bmm(x, y, members, epochs, threads)
        forms[f"torch: torch.func, {threads} threads"] = torch_func(
            x, y, members, epochs, threads
        )
    what = f"{members} nets 1-8-1 at once, {epochs} epochs each"
    return [row(what, interleaved(forms, rounds=5), first, 0.1, None, 1.0)]


def squared_error(model, batch):
    return losses.mse_loss(model(batch[0]), batch[1]), {}


def small_parameters(members: int) -> list[torch.Tensor]:
    shapes = ((members, 1, 8), (members, 1, 8), (members, 8, 1), (members, 1, 1))
    return [torch.randn(shape, device=DEVICE) for shape in shapes]


def small_net(parameters, x):
    w1, b1, w2, b2 = parameters
    return torch.tanh(x @ w1 + b1) @ w2 + b2


def torch_bmm(x, y, members, epochs, threads):
    parameters = [p.requires_grad_() for p in small_parameters(members)]
    x, y = torch.tensor(x).to(DEVICE).expand(members, -1, -1), torch.tensor(y).to(DEVICE)
    opt = torch.optim.SGD(parameters, lr=RATE)

    def run():
        torch.set_num_threads(threads)
        for _ in range(epochs):
            opt.zero_grad()
            ((small_net(parameters, x) - y) ** 2).mean(dim=(1, 2)).sum().backward()
            opt.step()
        return parameters[0].sum().item()

    return run


def torch_func(x, y, members, epochs, threads):
    parameters = small_parameters(members)
    x, y = torch.tensor(x).to(DEVICE), torch.tensor(y).to(DEVICE)
    gradient = torch.func.vmap(torch.func.grad(lambda p: ((small_net(p, x) - y) ** 2).mean()))

    def run():
        torch.set_num_threads(threads)
        for _ in range(epochs):
            for parameter, grad in zip(parameters, gradient(parameters), strict=True):
                parameter.sub_(RATE * grad)
        return parameters[0].sum().item()

    return run


def conv_nets(members: int = 8, steps: int = 2) -> list[dict[str, str]]:
    """Eight trainings of the conv net; torch one after the other in its best layout, and
    batched by torch.func.
    """
    x, y = pictures(BATCH * steps)
    learner, _ = learn(nn.ConvNet(rngs=nnx.Rngs(0)))
    data = jnp.asarray(x), jnp.asarray(y)

    def member(key):
        _, state = learn(nn.ConvNet(rngs=nnx.Rngs(key)))
        return train.train_epoch(learner, state, data, batch_size=BATCH)[1]["loss"]

    keys = jax.random.split(jax.random.key(0), members)
    jitted = jax.jit(lambda keys: jax.lax.map(member, keys))
    forms: Forms = {"ours": lambda: jitted(keys).block_until_ready()}
    first = first_call(forms["ours"])
    first_channels = np.moveaxis(x, -1, 1)
    for form in torch_forms(images=True, compiled=False):
        runs = [
            torch_epoch(reference.ConvNet(), first_channels, y, form) for _ in range(members)
        ]
        forms[f"torch: one by one, {form}"] = lambda runs=runs: [run() for run in runs]
    forms["torch: torch.func"] = conv_nets_by_func(first_channels, y, members)
    what = f"{members} conv nets at once (lax.map), {steps} steps each"
    return [row(what, interleaved(forms, rounds=5), first, 0.9, None, 1.0)]


def conv_nets_by_func(x, y, members):
    models = [reference.ConvNet().to(DEVICE) for _ in range(members)]
    parameters, _ = torch.func.stack_module_state(models)
    x, y = torch.tensor(x).to(DEVICE), torch.tensor(y).long().to(DEVICE)

    def loss(parameters, images, labels):
        logits = torch.func.functional_call(models[0], parameters, (images,))
        return torch.nn.functional.cross_entropy(logits, labels)

    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None))

    def run():
        torch.set_num_threads(THREADS[-1])
        for rows in torch.randperm(len(x), device=DEVICE).split(BATCH):
            grads = gradient(parameters, x[rows], y[rows])
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.sub_(RATE * grads[name])
        return parameters["fc2.bias"].sum().item()

    return run


def measure() -> list[dict[str, str]]:
    peak, is_short = matmul_rate(), Rounds.most <= 3
    return [
        *conv_net(peak),
        *fully_connected(peak),
        *(residual(peak, n_blocks=20) if is_short else residual(peak, steps=4)),
        *volumes(peak),
        *masks(peak, steps=2 if is_short else 8),
        *photographs(peak, steps=1 if is_short else 4),
        *small_nets(),
        *conv_nets(),
    ]
