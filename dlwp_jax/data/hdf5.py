"""HDF5 files: their data sets as arrays (chapter 3's `ourpoints.hdf5`; needs h5py)."""

from pathlib import Path

import numpy as np

from dlwp_jax.data.files import needs, reading


def read(path: str | Path, *names: str) -> dict[str, np.ndarray]:
    """Read the data sets of an HDF5 file.

    Args:
      path: the file.
      *names: the data sets to read, such as "coords" or "group/coords"; without names all.

    Returns:
      name -> array, in the file's own type and shape.

    Raises:
      BrokenFile: if the file is damaged or no HDF5 file.
      ValueError: if it has no data set of one of the names.

    >>> import h5py
    >>> path = getfixture("tmp_path") / "points.hdf5"
    >>> with h5py.File(path, "w") as file:
    ...     _ = file.create_dataset("coords", data=[[4.0, 1.0], [5.0, 3.0]])
    >>> read(path)["coords"].tolist()
    [[4.0, 1.0], [5.0, 3.0]]
    """
    with needs("hdf5"):
        import h5py

    found: dict[str, np.ndarray] = {}
    with reading(path, "an HDF5 file", OSError, RuntimeError), h5py.File(path, "r") as file:
        there: list[str] = []
        file.visititems(
            lambda name, item: there.append(name) if isinstance(item, h5py.Dataset) else None
        )
        for name in names or there:
            if name not in there:
                raise ValueError(
                    f"{path} has no data set {name!r}; there are {', '.join(there)}."
                )
            found[name] = np.asarray(file[name])
    return found
