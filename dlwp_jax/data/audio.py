"""Sound: WAV files to waveforms, and waveforms to spectrograms (chapter 4)."""

import io
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.files import BrokenFile, needs, reading

# Sizes that mean "not known": a pipe cannot go back to write them, and a recorder that lost its
# power did not. Programs write 0, 0x7FFFxxxx or 0xFFFFFFFF.
UNKNOWN_SIZE = 0x7FFF0000
OTHER_CONTAINERS = {
    b"RF64": "RF64, the WAV of more than 4 GB",
    b"BW64": "BW64, the WAV of more than 4 GB",
    b"riff": "Wave64",
    b"FORM": "AIFF",
    b"OggS": "Ogg",
    b"fLaC": "FLAC",
    b"ID3\x03": "MP3",
    b"ID3\x04": "MP3",
}


def read(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a WAV file: integers of 8, 16, 24 or 32 bits, or floats, any number of channels.

    A file from a pipe, which says 0 or 0xFFFFFFFF for its sizes, is read to its end.

    Returns:
      `[samples channels]` in the file's own type (8 bits: uint8 around 128; 24 bits: int32 with
      the lowest byte 0), and the samples per second.

    Raises:
      BrokenFile: if the file is truncated, damaged in its header, compressed, or no WAV file.
        (Samples have no checksum: one that is damaged is another sample.)

    >>> from scipy.io import wavfile
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> wavfile.write(path, 8000, np.zeros((80, 2), np.int16))
    >>> samples, rate = read(path)
    >>> samples.shape, samples.dtype.name, rate
    ((80, 2), 'int16', 8000)
    """
    with needs():
        from scipy.io import wavfile

    causes = (ValueError, EOFError, OverflowError, ZeroDivisionError, MemoryError)
    with reading(path, "a WAV file", *causes):
        content = _sound_alone(Path(path).read_bytes(), path)
        rate, samples = wavfile.read(io.BytesIO(content))
    if not samples.size or rate <= 0:
        raise BrokenFile(f"{path} holds {samples.size} samples at {rate} a second.")
    # RIFX files are big-endian.
    native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    return native.reshape(len(samples), -1), rate


def _sound_alone(content: bytes, path: str | Path) -> bytes:
    """A WAV file of the format and the samples of another, with the right sizes.

    A WAV file says twice how long it is, which SciPy does not compare, and it may hold other
    chunks.
    """
    if content[:4] not in (b"RIFF", b"RIFX") or content[8:12] != b"WAVE":
        other = OTHER_CONTAINERS.get(content[:4])
        known = f" ({other} is not read)" if other else ""
        raise BrokenFile(
            f"{path} is not a WAV file: it does not begin with RIFF ... WAVE{known}."
        )
    order = "little" if content[:4] == b"RIFF" else "big"
    whole = int.from_bytes(content[4:8], order)
    is_streamed = whole == 0 or whole >= UNKNOWN_SIZE
    if not is_streamed and whole + 8 > len(content):
        raise BrokenFile(f"{path} is truncated: {len(content)} of {whole + 8} bytes.")
    layout = b""
    at = 12
    while content[at : at + 4] != b"data":
        size = int.from_bytes(content[at + 4 : at + 8], order)
        if at + 8 + size >= len(content):
            raise BrokenFile(f"{path} is truncated or damaged: it has no samples.")
        if content[at : at + 4] == b"fmt ":
            layout = content[at : at + 8 + size]
        at += 8 + size
        # A chunk of odd length is padded by a zero, which some programs forget.
        if size % 2 and content[at : at + 1] == b"\0":
            at += 1
    if len(layout) < 24:
        raise BrokenFile(f"{path} is damaged: it does not say how its samples are stored.")
    size, there = int.from_bytes(content[at + 4 : at + 8], order), len(content) - at - 8
    # A recorder that lost its power may have counted the header only.
    is_unset = size == 0 and (is_streamed or whole <= at)
    if is_unset or (size >= UNKNOWN_SIZE and size > there):
        frame = max(int.from_bytes(layout[20:22], order), 1)
        size = there - there % frame
    if size > there:
        raise BrokenFile(
            f"{path} is truncated: its samples need {size} bytes, {max(there, 0)} are there."
        )
    if len(layout) % 2:
        layout += b"\0"
    samples = content[at + 8 : at + 8 + size]
    body = b"WAVE" + layout + b"data" + size.to_bytes(4, order) + samples
    return content[:4] + len(body).to_bytes(4, order) + body


def to_float(samples: np.ndarray) -> np.ndarray:
    """Samples of any type as float32 in -1..1 (`torchaudio.load`'s scale); floats keep theirs.

    >>> to_float(np.array([0, 128], np.uint8)).tolist()
    [-1.0, 0.0]
    >>> to_float(np.array([-32768], np.int16)).tolist()
    [-1.0]
    """
    samples = checks.on_host(samples, "samples")
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype in (np.int16, np.int32):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    if jnp.issubdtype(samples.dtype, jnp.floating):  # bfloat16 too
        with np.errstate(over="ignore"):
            return samples.astype(np.float32)
    raise TypeError(f"samples are {samples.dtype}; uint8, int16, int32 or floating is wanted.")


class Spectrogram(NamedTuple):
    """Power by frequency and time.

    Attributes:
      frequencies: `[f]` hertz.
      times: `[t]` seconds, the middle of each segment.
      power: `[... f t]` density, the waveform's unit squared per hertz.
    """

    frequencies: jax.Array
    times: jax.Array
    power: jax.Array


def spectrogram(
    waveform: Any,
    rate: float,
    *,
    window: str | tuple[str, float] = ("tukey", 0.25),
    nperseg: int = 256,
    noverlap: int | None = None,
) -> Spectrogram:
    """Power spectral density of short segments: `scipy.signal.spectrogram`'s defaults, in JAX.

    Each segment loses its mean, is multiplied by the window w and transformed: S = |FFT|^2 /
    (rate * sum w^2), doubled for all frequencies that stand for a negative one too.

    Args:
      waveform: `[... samples]`, real; differentiable and jittable in it.
      rate: samples per second.
      window: a window of `scipy.signal.get_window`, computed on the host.
      nperseg: samples in a segment.
      noverlap: samples that neighbours share; None is an eighth.

    Raises:
      TypeError, ValueError: if the waveform is not real, the segments do not fit it, or the
        window is unknown.

    Returns:
      A `Spectrogram`, power `[... nperseg // 2 + 1, segments]`.

    >>> spectrogram(np.sin(np.arange(44100.0)), 44100).power.shape
    (129, 196)
    """
    with needs():
        from scipy.signal import get_window

    rate, nperseg = checks.real(rate, "rate", above=0), checks.whole(nperseg, "nperseg", 1)
    noverlap = nperseg // 8 if noverlap is None else checks.whole(noverlap, "noverlap", 0)
    waveform = checks.on_device(waveform, "waveform")
    if jnp.iscomplexobj(waveform):
        raise TypeError(f"waveform must be real; got {checks.describe(waveform)}.")
    samples = waveform.shape[-1] if waveform.ndim else 0
    if not 0 < nperseg <= samples or not 0 <= noverlap < nperseg:
        raise ValueError(
            f"nperseg={nperseg}, noverlap={noverlap} of {samples} samples: 0 <= noverlap < "
            "nperseg <= samples."
        )
    weights = np.asarray(get_window(window, nperseg), np.float32)
    if not np.isfinite(weights).all() or not weights.any():
        raise ValueError(f"window={window!r} gives weights that are 0 or not finite.")
    starts = np.arange(0, samples - nperseg + 1, nperseg - noverlap)
    power = _segment_power(waveform, weights, rate, step=nperseg - noverlap)
    return Spectrogram(
        jnp.asarray(np.fft.rfftfreq(nperseg, 1 / rate), power.dtype),
        jnp.asarray((starts + nperseg / 2) / rate, power.dtype),
        power,
    )


@partial(jax.jit, static_argnames="step")
def _segment_power(
    waveform: jax.Array, window: jax.Array, rate: float, *, step: int
) -> jax.Array:
    x = (
        waveform
        if jnp.issubdtype(waveform.dtype, jnp.floating)
        else waveform.astype(jnp.float32)
    )
    n = len(window)
    starts = np.arange(0, x.shape[-1] - n + 1, step)
    segments = x[..., starts[:, None] + np.arange(n)]  # [... t n]
    segments = (segments - segments.mean(axis=-1, keepdims=True)) * window
    power = jnp.abs(jnp.fft.rfft(segments, axis=-1)) ** 2 / (rate * jnp.sum(window**2))
    doubled = np.full(n // 2 + 1, 2.0, np.float32)
    doubled[0] = 1.0
    if n % 2 == 0:
        doubled[-1] = 1.0  # the Nyquist frequency is its own mirror image
    return jnp.swapaxes(power * doubled, -1, -2)
