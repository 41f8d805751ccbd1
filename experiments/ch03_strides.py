"""Chapter 3: a picture of how size, stride and offset lead through a storage.

Run:    python -m experiments ch03_strides --rows 3 --columns 4
Writes: runs/ch03_strides/{config.json,strides.png}
Expect: a tensor and three views of it, drawn in about 3 s
"""

import dataclasses
from itertools import pairwise
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle

from dlwp_jax import runs, storage
from dlwp_jax.storage import StridedTensor

# One for each row of the view.
COLORS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2")


@dataclasses.dataclass(frozen=True)
class Config:
    rows: int = 3  # of the tensor that is drawn
    columns: int = 4
    out: Path = Path("runs")  # where the run directory is made

    def __post_init__(self):
        if self.rows < 2 or self.columns < 2:
            raise ValueError(
                "--rows and --columns must be 2 or more, for a slice and windows to show; "
                f"got {self.rows} and {self.columns}."
            )


def cell(axis, x: float, y: float, text: str, color: str | None) -> None:
    face = "white" if color is None else color
    axis.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="#888888", linewidth=0.8))
    axis.text(
        x + 0.5,
        y + 0.5,
        text,
        ha="center",
        va="center",
        color="#aaaaaa" if color is None else "white",
    )


def hop(axis, start: float, end: float, color: str, *, below: bool) -> None:
    """An arrow between storage cells: above within a row, below from one row to the next."""
    y, bend = (0, 1) if below else (1, -1)
    height = 0.45 if abs(end - start) < 3 else 0.25
    axis.add_patch(
        FancyArrowPatch(
            (start + 0.5, y),
            (end + 0.5, y),
            connectionstyle=f"arc3,rad={bend * height * (1 if end > start else -1)}",
            arrowstyle="-|>",
            mutation_scale=9,
            linestyle=(0, (3, 2)) if below else "-",
            color=color,
            shrinkA=0,
            shrinkB=0,
        )
    )


def draw_tensor(axis, view: StridedTensor, positions: np.ndarray, room: int) -> None:
    """The view as rows and columns; in every cell the storage position of its element."""
    rows, columns = view.shape
    for i in range(rows):
        for j in range(columns):
            cell(axis, j, -i, str(positions[i, j]), COLORS[i % len(COLORS)])
    axis.set(xlim=(-0.2, room + 0.1), ylim=(0.5 - room, 1.1), aspect="equal", anchor="NW")


def draw_walk(axis, view: StridedTensor, positions: np.ndarray) -> None:
    """The storage as a line of cells; arrows are solid along a row and dashed to the next."""
    row_of = {int(p): i for i, row in reversed(list(enumerate(positions))) for p in row}
    for p in range(view.storage.shape[0]):
        cell(axis, p, 0, str(p), COLORS[row_of[p] % len(COLORS)] if p in row_of else None)
    for i, row in enumerate(positions):
        for start, end in pairwise(row):
            hop(axis, start, end, COLORS[i % len(COLORS)], below=False)
    for start, end in pairwise(positions[:, 0]):
        hop(axis, start, end, "#333333", below=True)
    axis.set(xlim=(-0.2, view.storage.shape[0] + 0.2), ylim=(-1.6, 2.6), aspect="equal")


def draw_walks(views: dict[str, StridedTensor]):
    """A line of the figure for each two-dimensional view: its elements, and its storage."""
    figure, axes = plt.subplots(
        len(views), 2, figsize=(11, 2.3 * len(views)), width_ratios=(1, 3), layout="constrained"
    )
    room = max(max(view.shape) for view in views.values())
    for (name, view), (left, right) in zip(views.items(), axes, strict=True):
        line = jnp.arange(view.storage.shape[0])
        # The position of each element in the storage, read through the view's own layout.
        positions = StridedTensor(line, view.layout).numpy()
        draw_tensor(left, view, positions, room)
        draw_walk(right, view, positions)
        left.set_title(name, family="monospace", loc="left")
        down, along = view.stride()
        right.set_title(
            f"size {view.shape}  stride {view.stride()}  offset {view.storage_offset()}:   "
            f"→ along a row +{along},  ⇢ to the next row +{down}",
            loc="left",
            fontsize=10,
        )
        left.axis("off")
        right.axis("off")
    return figure


def example_views(rows: int, columns: int) -> dict[str, StridedTensor]:
    x = storage.tensor(jnp.arange(rows * columns).reshape(rows, columns))
    return {
        "x": x,
        "x.t()": x.t(),
        "x[1:, ::2]": x[1:, ::2],
        "x[0].unfold(0, 2, 1)": x[0].unfold(0, 2, 1),
    }


def main(config: Config) -> None:
    run = runs.start("ch03_strides", config, out=config.out)
    views = example_views(config.rows, config.columns)
    for name, view in views.items():
        print(f"{name:22} {view.layout}")
    run.figure(draw_walks(views), "strides.png")
