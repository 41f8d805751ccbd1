"""Chapter 3: tensors are views of a storage, with a size, a stride and an offset.

Run:    python -m experiments ch03_storage
Writes: runs/ch03_storage/{config.json,strides.png,grey.png,points.npz,points.safetensors}
Expect: nine short sections and two pictures; 5 to 8 s on two cores
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from dlwp_jax import runs, storage
from dlwp_jax.storage import Layout, StridedTensor
from experiments.ch03_strides import draw_walks, example_views

POINTS = [[4.0, 1.0], [5.0, 3.0], [2.0, 1.0]]  # three corners of a triangle, as in the book
GREY = np.array([0.2126, 0.7152, 0.0722], np.float32)  # how bright red, green and blue look


@dataclasses.dataclass(frozen=True)
class Config:
    image: Literal["china.jpg", "flower.jpg"] = "china.jpg"  # the picture that is made grey
    out: Path = Path("runs")  # where the run directory is made


def show(what: str, tensor: StridedTensor, base: StridedTensor | None = None) -> None:
    """One line: the three facts, and whether the storage is that of `base`."""
    if base is None:
        shared = ""
    elif tensor.storage is base.storage:
        shared = "same storage"
    else:
        shared = "storage of its own"
    size, stride, offset = tensor.size(), tensor.stride(), tensor.storage_offset()
    print(f"  {what:32} size {size!s:10} stride {stride!s:10} offset {offset}  {shared}")


def stop(title: str) -> None:
    print(f"\n{title}")


def views_and_copies() -> StridedTensor:
    stop("1. Construction and indexing: an index moves the offset, not the numbers")
    points = storage.tensor(POINTS)
    print(f"  storage: {points.storage}")
    show("points", points)
    show("points[1]", points[1], points)
    show("points[:, 0]", points[:, 0], points)
    show("points[None]", points[None], points)

    stop("2. Writing gives a new storage; other views can be made of it")
    second = points[1]
    written = second.at[0].set(10.0)
    after = points.over(written.storage)
    print(f"  points      {points.tolist()}\n  points.over {after.tolist()}")
    assert (points.tolist()[1], after.tolist()[1]) == ([5.0, 3.0], [10.0, 3.0])
    show("points[1].clone()", second.clone(), points)

    stop("3. A transpose exchanges two strides; contiguous() is what copies")
    show("points.t()", points.t(), points)
    show("points.t().contiguous()", points.t().contiguous(), points)
    cube = storage.tensor(jnp.ones((3, 4, 5)))
    show("cube.transpose(0, 2)", cube.transpose(0, 2), cube)
    try:
        points.t().view(6)
    except RuntimeError as error:
        print(f"  points.t().view(6): {error}")
    return points


def types(points: StridedTensor) -> None:
    stop("4. Types: another type is another storage")
    for dtype in (jnp.float32, jnp.float16, jnp.bfloat16, jnp.int8, jnp.bool_):
        converted = storage.tensor(points, dtype=dtype)
        print(
            f"  {converted.dtype!s:9} {converted.storage.nbytes:3} bytes  "
            f"{converted[0].tolist()}"
        )
    print(f"  float32 + int32 -> {(points + storage.tensor([1, 2])).dtype}")


def numpy_both_ways(points: StridedTensor) -> None:
    stop("5. NumPy: out without a copy, with strides; in without a copy if memory is aligned")
    columns = points.t().numpy()
    writeable = columns.flags.writeable
    print(f"  points.t().numpy(): strides {columns.strides} bytes, writeable {writeable}")
    assert np.shares_memory(columns, points.numpy())
    room = np.zeros(6 + 16, np.float32)
    # JAX takes memory over without a copy if it begins at a multiple of 64 bytes.
    start = -(room.ctypes.data // 4) % 16
    line = jax.dlpack.from_dlpack(room[start : start + 6])
    shared = line.unsafe_buffer_pointer() == room[start:].ctypes.data
    print(f"  jax.dlpack.from_dlpack(array): same memory {shared}; do not write to the array")


def save_and_load(points: StridedTensor, path: Path) -> None:
    stop("6. Files: a view is its storage and three small tuples")
    from safetensors import safe_open
    from safetensors.numpy import save_file

    view = points[:, 1]
    facts = dataclasses.asdict(view.layout)
    np.savez(path / "points.npz", storage=np.asarray(view.storage), **facts)
    with np.load(path / "points.npz") as file:
        layout = Layout(file["size"], file["stride"], file["offset"])
        show("from points.npz", StridedTensor(jnp.asarray(file["storage"]), layout))
    metadata = {"layout": json.dumps(facts)}
    save_file({"storage": np.asarray(view.storage)}, path / "points.safetensors", metadata)
    with safe_open(path / "points.safetensors", "numpy") as file:
        layout = Layout(**json.loads(file.metadata()["layout"]))
        loaded = StridedTensor(jnp.asarray(file.get_tensor("storage")), layout)
    show("from points.safetensors", loaded)
    assert loaded.tolist() == view.tolist() == [1.0, 3.0, 1.0]


def devices(points: StridedTensor) -> None:
    stop("7. Devices: the storage moves, the layout stays")
    for device in jax.local_devices():
        moved = jax.device_put(points, device)
        total = jnp.sum(moved[:, 0])
        print(f"  {device}: sum of the first column {total}, on {moved.storage.devices()}")


def weigh(
    image: jax.Array, names: str, weights: np.ndarray, weight_names: str
) -> tuple[jax.Array, str]:
    """Multiply and sum over the axes that both have, whatever their order: axes by name."""
    axes, weight_axes = names.split(), weight_names.split()
    letter = {name: chr(ord("a") + i) for i, name in enumerate(axes)}
    kept = [name for name in axes if name not in weight_axes]
    inputs = ",".join("".join(letter[name] for name in group) for group in (axes, weight_axes))
    output = "".join(letter[name] for name in kept)
    return jnp.einsum(f"{inputs}->{output}", image, weights), " ".join(kept)


def grey(config: Config, run: runs.RunDirectory) -> None:
    stop("8. Named axes: a picture made grey in three ways")
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image(config.image) / np.float32(255)  # [rows columns channels]
    image = storage.tensor(pixels)
    show("image [rows columns channels]", image)
    planes = image.movedim(-1, 0)
    show("image.movedim(-1, 0)", planes, image)
    by_letters = jnp.einsum("crk,c->rk", planes, GREY)
    by_names, left = weigh(planes.to_array(), "channels rows columns", GREY, "channels")
    by_views = (planes * storage.tensor(GREY)[:, None, None].expand_as(planes)).sum(0)
    for other in (by_names, by_views):  # sums of three, in another order: float32 rounding
        np.testing.assert_allclose(by_letters, other, atol=1e-6)
    shape = by_letters.shape
    print(f"  by einsum letters, by names (left: {left}) and by expanded views: equal {shape}")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.1), layout="constrained")
    for axis, picture, title in zip(
        axes, (image.numpy(), by_letters), ("image", "grey"), strict=True
    ):
        axis.imshow(picture, cmap="gray")
        axis.set(title=f"{title} {list(picture.shape)}", xticks=[], yticks=[])
    run.figure(figure, "grey.png")


def main(config: Config) -> None:
    run = runs.start("ch03_storage", config, out=config.out)
    points = views_and_copies()
    types(points)
    numpy_both_ways(points)
    save_and_load(points, run.path)
    devices(points)
    grey(config, run)
    stop("9. How strides walk the storage: strides.png")
    run.figure(draw_walks(example_views(rows=3, columns=4)), "strides.png")
