"""Recurrent layers with torch's gates, parameters and results: RNN, LSTM, GRU and cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from dlwp_jax.labels import labels
from dlwp_jax.nn import init
from dlwp_jax.nn.dropout import Dropout
from dlwp_jax.nn.recurrence import (
    GRU_RULE,
    LSTM_RULE,
    Rule,
    State,
    recur,
    rnn_rule,
    times_transposed,
)
from dlwp_jax.nn.shapes import promote

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "pad_sequence"]

Nonlinearity = Literal["tanh", "relu"]


def pad_sequence(
    sequences: Sequence[ArrayLike],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: Literal["right", "left"] = "right",
) -> jax.Array:
    """Sequences of different lengths as one array; torch.nn.utils.rnn.pad_sequence.

    Args:
      sequences: arrays `[length ...]`, alike but for the length.
      batch_first: `[N T ...]` instead of `[T N ...]`.
      padding_value: fills the rest.
      padding_side: the side on which the rest is.

    Raises:
      ValueError: for another `padding_side`.

    >>> pad_sequence([jnp.array([1, 2, 3]), jnp.array([4])], batch_first=True).tolist()
    [[1, 2, 3], [4, 0, 0]]
    """
    if padding_side not in ("right", "left"):
        raise ValueError(f"padding_side={padding_side!r} is unknown; take 'right' or 'left'.")
    arrays = [jnp.asarray(sequence) for sequence in sequences]
    longest = max(len(array) for array in arrays)

    def padded(array):
        free = longest - len(array)
        width = (free, 0) if padding_side == "left" else (0, free)
        rest = [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, [width, *rest], constant_values=padding_value)

    return jnp.stack([padded(array) for array in arrays], 0 if batch_first else 1)


class _Gates(nnx.Module):
    """What layers and cells share: the parameters, and the input's part of the gates."""

    hidden_size: int
    bias: bool
    dtype: DTypeLike | None
    _gates: int
    _has_cell_state = False

    def _rule(self) -> Rule:
        raise NotImplementedError

    def _make(self, suffix: str, input_size: int, output_size: int, rngs, param_dtype):
        """The parameters of one cell, drawn from U(-1/sqrt(hidden), 1/sqrt(hidden))."""
        size = self._gates * self.hidden_size
        draw = init.torch_bias(self.hidden_size)
        shapes = {"weight_ih": (size, input_size), "weight_hh": (size, output_size)}
        if self.bias:
            shapes |= {"bias_ih": (size,), "bias_hh": (size,)}
        if output_size != self.hidden_size:
            shapes["weight_hr"] = (output_size, self.hidden_size)
        for name, shape in shapes.items():
            parameter = nnx.Param(draw(rngs.params(), shape, param_dtype))
            setattr(self, name + suffix, parameter)

    def _parameters(self, suffix: str) -> dict[str, Any]:
        """The arrays of one cell; None for those that it lacks."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        found = {name: getattr(self, name + suffix, None) for name in names}
        return {name: None if p is None else p[...] for name, p in found.items()}

    def _prepared(self, x, suffix: str) -> tuple[jax.Array, tuple[Any, ...]]:
        """The input's part of the gates, by one product for all steps, and the weights that the
        rule takes.
        """
        p = self._parameters(suffix)
        x, *arrays = promote(x, *p.values(), dtype=self.dtype)
        weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = arrays
        gates, of_n = times_transposed(x, weight_ih), None
        if bias_ih is not None:
            if self._gates == 3:  # n's second bias is inside of r's product
                bias_hh, of_n = bias_hh[: 2 * self.hidden_size], bias_hh[2 * self.hidden_size :]
                bias_hh = jnp.pad(bias_hh, (0, self.hidden_size))
            gates = gates + (bias_ih + bias_hh)
        weights = {1: (weight_hh,), 3: (weight_hh, of_n), 4: (weight_hh, weight_hr)}
        return gates, weights[self._gates]

    def _state(self, hx, shapes: Sequence[tuple[int, ...]], dtype) -> State:
        """The state that the caller gave, or zeros."""
        if hx is None:
            return tuple(jnp.zeros(shape, dtype) for shape in shapes)
        given = tuple(hx) if self._has_cell_state else (hx,)
        if [jnp.shape(state) for state in given] != list(shapes):
            raise RuntimeError(
                f"{type(self).__name__}: this input takes a state of shape "
                f"{' and '.join(map(str, shapes))}; hx has "
                f"{' and '.join(str(jnp.shape(state)) for state in given)}."
            )
        return tuple(jnp.asarray(state, dtype) for state in given)

    def _returned(self, state: State):
        return state if self._has_cell_state else state[0]


class _Recurrent(_Gates):
    """A stack of cells over time, in one direction or two."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float | jax.Array,
        bidirectional: bool,
        proj_size: int,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
    ):
        if min(input_size, hidden_size, num_layers) < 1:
            raise ValueError(
                f"input_size={input_size}, hidden_size={hidden_size} and "
                f"num_layers={num_layers} must be positive."
            )
        if not 0 <= proj_size < hidden_size:
            raise ValueError(
                f"proj_size={proj_size} must be smaller than hidden_size={hidden_size}, or 0."
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.dtype: DTypeLike | None = dtype
        between = num_layers > 1 and (isinstance(dropout, jax.Array) or dropout != 0)
        self.dropout: Dropout | None = Dropout(dropout, rngs=rngs) if between else None
        output_size = proj_size or hidden_size
        size = input_size
        for layer in range(num_layers):
            for suffix in self._suffixes(layer):
                self._make(suffix, size, output_size, rngs, param_dtype)
            size = output_size * (1 + bidirectional)

    def _suffixes(self, layer: int) -> list[str]:
        forward = f"_l{layer}"
        return [forward, f"{forward}_reverse"] if self.bidirectional else [forward]

    def __call__(
        self, x: jax.Array, hx: Any = None, *, lengths: ArrayLike | None = None
    ) -> tuple[jax.Array, Any]:
        """Run the layers over a sequence, or over a batch of sequences.

        Args:
          x: `[T N in]`, `[N T in]` with `batch_first`, or one sequence `[T in]`.
          hx: the state before the first step: h `[layers * directions, N, out]`, for an LSTM
            (h, c) with c `[layers * directions, N, hidden]`; without N for one sequence. Zeros
            if None.
          lengths: the number of steps of each sequence, `[N]`, in place of torch's packed
            sequence. Behind them the output is zero; the last state is that at each sequence's
            own end, where the reverse direction begins.

        Returns:
          The output of the last layer, `[T N directions * out]` (or as `x` is laid out), and
          the last state, laid out as `hx`.

        Raises:
          ValueError: for an input of another rank, or lengths that are not in 1 to T (not
            known, and so not checked, under jit).
          RuntimeError: for a state of another shape.
        """
        x = jnp.asarray(x)
        if x.ndim not in (2, 3):
            raise ValueError(
                f"{type(self).__name__} takes [T N {self.input_size}], [N T {self.input_size}] "
                f"with batch_first, or [T {self.input_size}]; the input has shape {x.shape}."
            )
        single = x.ndim == 2
        if single:
            x = x[:, None]
        elif self.batch_first:
            x = x.swapaxes(0, 1)
        steps, size = x.shape[:2]
        valid = None if lengths is None else _valid(lengths, steps, size, single)
        count = self.num_layers * (1 + self.bidirectional)
        batch = () if single else (size,)
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)[
            : 1 + self._has_cell_state
        ]
        dtype = promote(x, self._parameters("_l0")["weight_ih"], dtype=self.dtype)[0].dtype
        state = self._state(hx, [(count, *batch, size) for size in sizes], dtype)
        if single:
            state = tuple(s[:, None] for s in state)
        y, last = self._run(x, state, valid)
        if single:
            return y[:, 0], self._returned(tuple(s[:, 0] for s in last))
        return y.swapaxes(0, 1) if self.batch_first else y, self._returned(last)

    def _run(
        self, x: jax.Array, state: State, valid: jax.Array | None
    ) -> tuple[jax.Array, State]:
        """`[T N in]` through all layers; the state is stacked."""
        ends: list[State] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout is not None:
                x = self.dropout(x)
            outputs = []
            for reverse, suffix in enumerate(self._suffixes(layer)):
                gates, weights = self._prepared(x, suffix)
                number = len(ends)
                first = tuple(s[number] for s in state)
                given = gates, weights, first, valid
                result: Any = recur(self._rule(), bool(reverse), *given)
                y, end = result
                outputs.append(y if valid is None else jnp.where(valid, y, 0))
                ends.append(end)
            x = jnp.concatenate(outputs, -1) if self.bidirectional else outputs[0]
        return x, tuple(jnp.stack(arrays) for arrays in zip(*ends, strict=True))


def _valid(lengths: ArrayLike, steps: int, batch: int, single: bool) -> jax.Array:
    """`[T N 1]`: whether a step belongs to its sequence."""
    lengths = labels("lengths", lengths)
    if single or lengths.shape != (batch,):
        raise ValueError(
            "lengths= takes one number for each sequence of a batch, "
            f"not shape {lengths.shape}."
        )
    if not isinstance(lengths, Tracer):
        values = np.asarray(lengths)
        if values.min(initial=1) < 1 or values.max(initial=1) > steps:
            raise ValueError(
                f"lengths go from {values.min()} to {values.max()}; a sequence has 1 to "
                f"{steps} steps."
            )
    return (jnp.arange(steps)[:, None] < lengths)[..., None]


class RNN(_Recurrent):
    """`h' = tanh(W_ih x + b_ih + W_hh h + b_hh)` over time; torch.nn.RNN.

    Args:
      input_size: features of the input.
      hidden_size: features of the state.
      num_layers: layers, each reading the output of the one before.
      nonlinearity: 'tanh' or 'relu'.
      bias: whether there are the two biases.
      batch_first: inputs and outputs are `[N T ...]` instead of `[T N ...]`; states are not
        concerned, as in torch.
      dropout: probability of dropout on the outputs of every layer but the last, in train mode.
      bidirectional: a second cell in each layer runs from the end; outputs are concatenated.
      rngs: its `params` stream draws the parameters, from U(-1/sqrt(hidden),
        1/sqrt(hidden)); with dropout its `dropout` stream is forked.
      dtype: of the computation; None promotes.
      param_dtype: of the parameters.

    Parameters, named and laid out as torch's: `weight_ih_l0 [hidden in]`, `weight_hh_l0 [hidden
      hidden]`, `bias_ih_l0`, `bias_hh_l0 [hidden]`, and so on with `_l1`, `_l0_reverse`.

    The input's product is one for the whole sequence, and so is the gradient of `weight_hh`.

    Raises:
      ValueError: for sizes below 1, or another nonlinearity.

    >>> rnn = RNN(3, 4, batch_first=True, rngs=nnx.Rngs(0))
    >>> y, h = rnn(jnp.ones((2, 5, 3)), lengths=jnp.array([5, 2]))
    >>> y.shape, h.shape, float(abs(y[1, 2:]).max()), bool((y[1, 1] == h[0, 1]).all())
    ((2, 5, 4), (1, 2, 4), 0.0, True)
    """

    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Nonlinearity = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float | jax.Array = 0.0,
        bidirectional: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.nonlinearity = _known(nonlinearity)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            rngs,
            dtype,
            param_dtype,
        )

    def _rule(self):
        return rnn_rule(self.nonlinearity)


def _known(nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity={nonlinearity!r} is unknown; take 'tanh' or 'relu'.")
    return nonlinearity


class LSTM(_Recurrent):
    """Long short-term memory over time; torch.nn.LSTM.

    `i, f, g, o = W_ih x + b_ih + W_hh h + b_hh`, in this order; `c' = sigmoid(f) c + sigmoid(i)
    tanh(g)`; `h' = sigmoid(o) tanh(c')`, times `W_hr` with `proj_size`. The state is `(h, c)`.

    Args:
      proj_size: size of h if it is projected, below `hidden_size`; 0 for none. The others are
        those of `RNN`.

    Parameters: `weight_ih_l0 [4 * hidden, in]`, `weight_hh_l0 [4 * hidden, out]`, `bias_ih_l0`,
      `bias_hh_l0 [4 * hidden]`, with `proj_size` also `weight_hr_l0 [proj hidden]`.

    >>> lstm = LSTM(3, 4, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
    >>> y, (h, c) = lstm(jnp.ones((5, 2, 3)))
    >>> y.shape, h.shape, c.shape
    ((5, 2, 8), (4, 2, 4), (4, 2, 4))
    """

    _gates = 4
    _has_cell_state = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float | jax.Array = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            rngs,
            dtype,
            param_dtype,
        )

    def _rule(self):
        return LSTM_RULE


class GRU(_Recurrent):
    """Gated recurrent units over time; torch.nn.GRU.

    `r, z, n` in this order: `r, z = sigmoid(W_ih x + b_ih + W_hh h + b_hh)`, `n = tanh(W_in x +
    b_in + r (W_hn h + b_hn))`, `h' = (1 - z) n + z h`. Arguments as for `RNN`.

    Parameters: `weight_ih_l0 [3 * hidden, in]`, `weight_hh_l0 [3 * hidden, hidden]`,
      `bias_ih_l0`, `bias_hh_l0 [3 * hidden]`.

    >>> y, h = GRU(3, 4, rngs=nnx.Rngs(0))(jnp.ones((5, 3)))
    >>> y.shape, h.shape
    ((5, 4), (1, 4))
    """

    _gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float | jax.Array = 0.0,
        bidirectional: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            rngs,
            dtype,
            param_dtype,
        )

    def _rule(self):
        return GRU_RULE


class _Cell(_Gates):
    """One step of a recurrent layer."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.dtype: DTypeLike | None = dtype
        self._make("", input_size, hidden_size, rngs, param_dtype)

    def __call__(self, x: jax.Array, hx: Any = None) -> Any:
        """The state behind one step: h, for an LSTMCell (h, c).

        Args:
          x: `[N in]` or `[in]`.
          hx: the state before, arrays `[N hidden]` or `[hidden]`; zeros if None.
        """
        gates, weights = self._prepared(x, "")
        shape = (*gates.shape[:-1], self.hidden_size)
        state = self._state(hx, [shape] * (1 + self._has_cell_state), gates.dtype)
        return self._returned(self._rule().step(gates, state, weights)[0])


class RNNCell(_Cell):
    """`h' = tanh(W_ih x + b_ih + W_hh h + b_hh)`, one step; torch.nn.RNNCell.

    Args:
      input_size, hidden_size, bias, nonlinearity: as for `RNN`.

    Parameters: `weight_ih [hidden in]`, `weight_hh [hidden hidden]`, `bias_ih`, `bias_hh
      [hidden]`.

    >>> RNNCell(3, 4, rngs=nnx.Rngs(0))(jnp.ones((2, 3))).shape
    (2, 4)
    """

    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Nonlinearity = "tanh",
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.nonlinearity = _known(nonlinearity)
        super().__init__(
            input_size, hidden_size, bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )

    def _rule(self):
        return rnn_rule(self.nonlinearity)


class LSTMCell(_Cell):
    """One step of an `LSTM`, from (h, c) to (h, c); torch.nn.LSTMCell.

    Parameters: `weight_ih [4 * hidden, in]`, `weight_hh [4 * hidden, hidden]`, `bias_ih`,
      `bias_hh [4 * hidden]`.

    >>> h, c = LSTMCell(3, 4, rngs=nnx.Rngs(0))(jnp.ones((2, 3)))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    _gates = 4
    _has_cell_state = True

    def _rule(self):
        return LSTM_RULE


class GRUCell(_Cell):
    """One step of a `GRU`; torch.nn.GRUCell.

    Parameters: `weight_ih [3 * hidden, in]`, `weight_hh [3 * hidden, hidden]`, `bias_ih`,
      `bias_hh [3 * hidden]`.

    >>> GRUCell(3, 4, rngs=nnx.Rngs(0))(jnp.ones(3)).shape
    (4,)
    """

    _gates = 3

    def _rule(self):
        return GRU_RULE
