"""The compiled convolution of the CPU against torch's, on whole numbers that float32 adds
without rounding, so every sum must have the same bits.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.test_util import check_grads

from dlwp_jax.nn.convolution_plain import Geometry
from dlwp_jax.nn.xla_cpu import convolve

pytestmark = pytest.mark.skipif(
    shutil.which("c++") is None or jax.default_backend() != "cpu",
    reason="there is no c++, or no CPU to compile for",
)
ROOT = Path(__file__).parents[1]

# (examples, spatial, in, out, window, stride, padding)
SHAPES = {
    "few channels": (2, (7, 6), 3, 16, (3, 3), (1, 1), ((1, 1), (1, 1))),
    "odd examples, half a register": (3, (7, 6), 3, 8, (3, 3), (1, 1), ((1, 1), (1, 1))),
    "valid": (1, (7, 6), 5, 40, (3, 3), (1, 1), ((0, 0), (0, 0))),
    "stride": (5, (9, 8), 5, 48, (3, 5), (2, 2), ((1, 1), (2, 2))),
    "unequal": (2, (9, 8), 20, 3, (5, 1), (2, 1), ((1, 2), (0, 0))),
    "one channel": (2, (5, 6, 7), 1, 1, (3, 1, 3), (2, 1, 2), ((1, 1), (0, 0), (2, 1))),
    "volumes": (3, (4, 6, 5), 8, 8, (3, 3, 3), (1, 1, 1), ((1, 1),) * 3),
    "tails": (2, (5, 4, 7), 33, 65, (3, 3, 3), (2, 2, 2), ((1, 1),) * 3),
    "one tap": (3, (7, 6), 20, 33, (1, 1), (2, 2), ((0, 0), (0, 0))),
    "one place": (1, (1, 1), 1, 1, (1, 3), (1, 1), ((0, 0), (1, 1))),
    "padding over the window": (2, (5, 30), 17, 9, (3, 3), (1, 1), ((3, 4), (0, 3))),
    "an end that no window reaches": (2, (6, 8), 4, 4, (3, 2), (2, 2), ((0, 0), (1, 1))),
    "bands of rows": (1, (80, 40), 34, 34, (3, 3), (1, 1), ((1, 1), (1, 1))),
    "a long row": (1, (1, 260_000), 1, 1, (1, 3), (1, 1), ((0, 0), (1, 1))),
    "no examples": (0, (4, 4), 2, 3, (3, 3), (1, 1), ((1, 1), (1, 1))),
}


def whole(*shape):
    return jnp.asarray(np.random.default_rng(0).integers(-4, 5, shape), jnp.float32)


def three(geometry):
    """A function of input and kernel: the output and both gradients."""

    @jax.jit
    def function(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, geometry), x, kernel)
        return y, *pull(jnp.round(y / 8))

    return function


def three_in_torch(x, kernel, geometry):
    n = len(geometry.stride)
    x = torch.tensor(np.asarray(x)).requires_grad_()
    kernel = torch.tensor(np.asarray(kernel)).requires_grad_()
    padding = sum(reversed(geometry.padding), ())
    padded = torch.nn.functional.pad(x.movedim(-1, 1), padding)
    convolution = (torch.nn.functional.conv2d, torch.nn.functional.conv3d)[n - 2]
    in_order = kernel.permute(n + 1, n, *range(n))
    y = convolution(padded, in_order, stride=geometry.stride).movedim(1, -1)
    y.backward(torch.round(y.detach() / 8))
    return [a.detach().numpy() for a in (y, x.grad, kernel.grad)]


def problem(shape):
    n, spatial, channels, out, window, stride, padding = shape
    x, kernel = whole(n, *spatial, channels), whole(*window, channels, out)
    return x, kernel, Geometry(stride, padding, (1,) * len(window), 1)


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", SHAPES)
def test_it_has_the_bits_of_torch_in_whole_numbers(name):
    x, kernel, geometry = problem(SHAPES[name])
    function = three(geometry)
    assert ("custom_call" in function.lower(x, kernel).as_text()) == (len(x) > 0)
    assert_same(function(x, kernel), three_in_torch(x, kernel, geometry))


def test_every_run_has_the_same_bits():
    x, kernel = jax.random.normal(jax.random.key(0), (6, 16, 20, 16)), whole(3, 3, 16, 24)
    function = three(Geometry((1, 1), ((1, 1), (1, 1)), (1, 1), 1))
    first = function(x, kernel)
    for _ in range(20):
        assert_same(function(x, kernel), first)


def test_derivatives_of_both_modes_up_to_the_second_order():
    x, kernel = whole(2, 4, 5, 3) / 8, whole(3, 3, 3, 2) / 8
    geometry = Geometry((2, 1), ((1, 1), (0, 1)), (1, 1), 1)
    check_grads(
        lambda *xs: jnp.sin(convolve(*xs, geometry)), (x, kernel), 2, eps=1e-2, rtol=2e-2
    )


def test_vmap_and_scan():
    xs, kernel = whole(3, 2, 5, 6, 4), whole(3, 3, 4, 8)
    kernels, geometry = jnp.stack([kernel, 2 * kernel, -kernel]), problem(SHAPES["valid"])[2]
    ours = three(geometry)
    one_by_one = [three_in_torch(x, kernel, geometry) for x in xs]
    expected = [np.stack(arrays) for arrays in zip(*one_by_one, strict=True)]
    assert_same(jax.vmap(ours, (0, None))(xs, kernel), expected)
    assert_same(jax.lax.scan(lambda c, x: (c, ours(x, kernel)), None, xs)[1], expected)
    pairs = zip(xs, kernels, strict=True)
    one_by_one = [three_in_torch(x, kernel, geometry) for x, kernel in pairs]
    expected = [np.stack(arrays) for arrays in zip(*one_by_one, strict=True)]
    assert_same(jax.vmap(ours)(xs, kernels), expected)


def test_a_file_holds_no_call():
    from jax import export

    x, kernel, geometry = problem(SHAPES["valid"])
    function = three(geometry)
    exported = export.deserialize(export.export(function)(x, kernel).serialize())
    assert_same(exported.call(x, kernel), three_in_torch(x, kernel, geometry))


PROGRAM = """
import jax, jax.numpy as jnp
from dlwp_jax import nn
function = jax.jit(lambda x, k: nn.conv(x, k, padding=1))
x, k = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
print("custom_call" in function.lower(x, k).as_text(), float(function(x, k).sum()))
"""


def start(cache, **environment):
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)} | environment
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return out.split()


@pytest.mark.parametrize("environment", [{"PATH": ""}, {"DLWP_NATIVE": "0"}])
def test_without_a_compiler_or_switched_off_xla_does_it(tmp_path, environment):
    assert said(start(tmp_path, **environment)) == ["False", "400.0"]
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.slow
def test_two_processes_at_once_and_a_damaged_file(tmp_path):
    for process in [start(tmp_path), start(tmp_path)]:
        assert said(process) == ["True", "400.0"]
    for path in tmp_path.rglob("*.so"):
        path.write_bytes(path.read_bytes()[:5000])
    assert said(start(tmp_path)) == ["True", "400.0"]


# Numbers of `Shape`: examples, in, out; then in, out, window, stride, low of each axis.
MAIN = """
#include "convolution.cc"

struct Threads {
  int num_threads() { return 3; }
  template <class F> void Schedule(F f) { std::thread(f).detach(); }
};

int main() {
  const int shapes[][18] = {
      {3, 3, 8, 1, 1, 1, 1, 0, 7, 7, 3, 1, 1, 6, 6, 3, 1, 1},
      {2, 33, 65, 5, 3, 3, 2, 1, 4, 2, 3, 2, 1, 7, 4, 3, 2, 1},
      {5, 5, 48, 1, 1, 1, 1, 0, 9, 5, 3, 2, 1, 8, 4, 5, 2, 2},
      {2, 1, 11, 3, 3, 3, 1, 1, 4, 4, 3, 1, 1, 5, 5, 3, 1, 1},
      {1, 5, 40, 1, 1, 1, 1, 0, 7, 5, 3, 1, 0, 6, 4, 3, 1, 0},
      {2, 4, 4, 1, 1, 1, 1, 0, 6, 2, 3, 2, 0, 8, 5, 2, 2, 1},
      {0, 4, 4, 1, 1, 1, 1, 0, 6, 2, 3, 2, 0, 8, 5, 2, 2, 1}};
  Threads threads;
  for (auto& numbers : shapes) {
    Shape s;
    memcpy(&s, numbers, sizeof s);
    std::vector<float> x((size_t)s.examples * s.d.in * s.h.in * s.w.in * s.in, 1.f);
    std::vector<float> y((size_t)s.examples * s.d.out * s.h.out * s.w.out * s.out);
    std::vector<float> k((size_t)s.d.window * s.h.window * s.w.window * s.in * s.out, 1.f);
    output(threads, s, x.data(), k.data(), y.data());
    input_gradient(threads, s, y.data(), k.data(), x.data());
    kernel_gradient(threads, s, x.data(), y.data(), k.data());
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // until late threads are done
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("kinds", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(tmp_path, kinds):
    source, program = tmp_path / "main.cc", tmp_path / "main"
    source.write_text(MAIN)
    flags = ["-std=c++17", "-march=native", f"-fsanitize={kinds}", "-fno-sanitize-recover=all"]
    folder = ROOT / "dlwp_jax" / "nn" / "xla_cpu"
    folders = [f"-I{folder}", f"-I{jax.ffi.include_dir()}"]
    command = ["c++", *flags, *folders, str(source), "-o", str(program), "-pthread"]
    subprocess.run(command, check=True, timeout=300)
    subprocess.run([str(program)], check=True, timeout=300)
