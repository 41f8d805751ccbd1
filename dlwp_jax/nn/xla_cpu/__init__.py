"""Convolutions in the forms that XLA:CPU computes fast. Delete this folder when XLA has mended
it.

`convolve` and `convolve_transpose` compute the same as those of `nn.convolution_plain`, which
other platforms get. To delete the folder, import them from there in `nn/convolution.py` and
`nn/convolution_transpose.py`; nothing else knows of it. Measure before and after with
`scripts/bench layers` and `scripts/bench networks`.

If there is a C++ compiler, `library.py` compiles `convolution.cc` for this processor at first
use and keeps the result in `$XDG_CACHE_HOME/dlwp-jax` (`~/.cache/dlwp-jax`). Convolutions of
float32 pictures and volumes, with strides 1 and 2 and without dilation and groups, are then
calls of this library (`native.py`), except products of one tap. `DLWP_NATIVE=0`, set before the
first convolution, switches it off. Programs that are compiled for several devices, and exported
ones, do not call it.

The rest gets help from XLA's own operations. In jaxlib 0.10 the CPU needs it in three ways:

- **Layout** (`primitive.py`, `forms.py`). XLA:CPU is fast for `[batch, *spatial, features] x
  [*spatial, in, out] -> [batch, *spatial, features]`. The gradients that JAX derives are
  written in other layouts. XLA turns them around, but not inside `scan`, `fori_loop` and
  `while_loop`: there they take more than ten times as long. The gradients here are convolutions
  in that one layout, and an `optimization_barrier` behind the transposes keeps XLA from folding
  them back in.
- **Few channels.** XLA gathers the window of every output place into a buffer and
  multiplies it by the kernel. With few output channels most of the time is spent on gathering,
  so neighbouring output columns are computed together: a window that is `r - 1` columns wider
  and moves by `r` columns, with `r` shifted copies of the kernel, between zeros, as its output
  channels. The result is the same memory, read as `[N H W/r r*out]`. With few input channels,
  as in pictures, a matrix product is faster still (`product.py`).
- **Volumes.** Three spatial axes take three to eight times as long as two with as much to
  compute, so a volume becomes a sum of convolutions of pictures, one for each depth of the
  window.

`choice.py` decides between the forms, and is the only place that does. One result differs from
torch's: the added zeros turn infinity into NaN, so an input that is not finite spoils all `r`
columns that are computed together, where it would spoil one.
"""

from dlwp_jax.nn.xla_cpu.primitive import convolve, convolve_transpose

__all__ = ["convolve", "convolve_transpose"]
