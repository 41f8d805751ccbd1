"""Pictures of data, one function for each kind; each gives a matplotlib figure to save or to
show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data import audio, volume
from dlwp_jax.data.files import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _panels(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes `[rows columns]`, made without pyplot: nothing is kept open."""
    with needs("experiments"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _groups(groups: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Groups of finite numbers."""
    arrays = {
        name: checks.real_on_host(values, f"groups[{name!r}]")
        for name, values in groups.items()
    }
    for name, values in arrays.items():
        if not values.size or not np.isfinite(values).all():
            raise ValueError(f"groups[{name!r}] is empty, or holds a value that is not finite.")
    return arrays


def grid(images: Any, titles: Any, *, columns: int, size: tuple[float, float]) -> Figure:
    """Images `[n]` of `[h w c]` or `[h w]` in rows, each under its title.

    >>> len(grid(np.zeros((3, 4, 4)), "abc", columns=2, size=(4, 4)).axes)
    4
    """
    if len(images) != len(titles):
        raise ValueError(
            f"{len(images)} images and {len(titles)} titles; one title for each image is "
            "needed."
        )
    figure, axes = _panels(-(-len(images) // columns), columns, size)
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(picture, cmap="gray")
        ax.set_title(title, fontsize=10)
    return figure


def planes(scan: volume.Volume, irc: Any | None = None) -> Figure:
    """The three planes of a CT through a voxel (the middle by default) at lung window, in true
    proportions.

    >>> len(planes(volume.Volume(np.zeros((2, 3, 4)))).axes)
    3
    """
    figure, axes = _panels(1, 3, (13, 4.6))
    dx, dy, dz = scan.spacing
    for ax, (name, plane), aspect in zip(
        axes[0], scan.planes(irc).items(), (dy / dx, dz / dx, dz / dy), strict=True
    ):
        ax.imshow(volume.window(plane), cmap="gray", aspect=aspect, vmin=0, vmax=1)
        ax.set_title(f"{name}, -1000 to 400 HU", fontsize=10)
        ax.axis("off")
    return figure


def histograms(groups: Mapping[str, Any], *, xlabel: str, title: str) -> Figure:
    """One outlined histogram for each group of values, all of area 1.

    >>> len(histograms({"a": np.arange(5), "b": np.arange(9)}, xlabel="x", title="t").axes)
    1
    """
    groups = {name: np.ravel(values) for name, values in _groups(groups).items()}
    figure, axes = _panels(1, 1, (7, 4))
    ax = axes[0, 0]
    bins = np.histogram_bin_edges(np.concatenate(list(groups.values())), 30)
    for name, values in groups.items():
        ax.hist(
            values,
            bins,
            density=True,
            histtype="step",
            linewidth=2,
            label=f"{name}, n={len(values)}",
        )
    ax.set(xlabel=xlabel, ylabel="density", title=title)
    ax.legend()
    return figure


def day(groups: Mapping[str, Any], *, ylabel: str, title: str) -> Figure:
    """Median and middle half of each group's days `[days 24]`, hour by hour.

    >>> len(day({"a": np.zeros((3, 24))}, ylabel="y", title="t").axes)
    1
    """
    groups = _groups(groups)
    figure, axes = _panels(1, 1, (7, 4))
    ax = axes[0, 0]
    for name, values in groups.items():
        low, median, high = np.percentile(values, (25, 50, 75), axis=0)
        (line,) = ax.plot(median, label=f"{name}, n={len(values)}")
        ax.fill_between(np.arange(len(median)), low, high, alpha=0.2, color=line.get_color())
    ax.set(xlabel="hour of the day", ylabel=ylabel, title=title, xticks=range(0, 24, 3))
    ax.legend()
    return figure


def characters(line: str, rows: Any) -> Figure:
    """The one-hot rows of a line of text, one column for each character.

    >>> len(characters("ab", np.eye(2, 128)).axes)
    1
    """
    rows = checks.real_on_host(rows, "rows")
    if rows.ndim != 2 or len(rows) != len(line) or not rows.size:
        raise ValueError(
            f"rows have shape {rows.shape}; one for each of the {len(line)} characters of line "
            "is needed."
        )
    figure, axes = _panels(1, 1, (11, 4))
    ax = axes[0, 0]
    ax.imshow(
        np.transpose(rows), aspect="auto", cmap="Greys", origin="lower", interpolation="nearest"
    )
    ax.set_xticks(range(len(line)), list(line), fontsize=8)
    ax.set(
        ylabel="ASCII code",
        title="A line of text: a column for each character, a row for each code",
    )
    return figure


def sound(samples: np.ndarray, rate: float, found: audio.Spectrogram) -> Figure:
    """A waveform `[samples]` above its spectrogram, the uppermost 80 dB of it.

    >>> x = np.sin(np.arange(1000.0))
    >>> len(sound(x, 1000, audio.spectrogram(x, 1000)).axes)
    3
    """
    figure, axes = _panels(2, 1, (9, 5), sharex=True)
    (upper, lower) = axes[:, 0]
    upper.plot(np.arange(len(samples)) / rate, audio.to_float(samples), linewidth=0.3)
    upper.set(
        ylabel="amplitude", title="Waveform and spectrogram", xlim=(0, len(samples) / rate)
    )
    power = np.asarray(found.power)
    decibels = 10 * np.log10(np.maximum(power, power.max() * 1e-8 + 1e-30))
    mesh = lower.pcolormesh(
        found.times, np.asarray(found.frequencies) / 1000, decibels, rasterized=True
    )
    lower.set(xlabel="seconds", ylabel="kHz")
    figure.colorbar(mesh, ax=lower, label="dB")
    return figure
