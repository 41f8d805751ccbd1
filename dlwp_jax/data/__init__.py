"""From files to well-shaped arrays (chapters 4, 7 and 10).

A data set in memory is any pytree of arrays with a common leading axis: one example per row.
Readers give NumPy arrays, channels last, in the file's own unit and type; what runs inside a
compiled program (`augment`, `audio.spectrogram`, `text.embed`) is JAX.

One module per kind: `image` (`imagenet` for its networks), `volume` and `dicom`, `table`,
`series`, `text`, `audio`, `video`; `sources` names whole data sets; `arrays`, `batches` and
`augment` work on what is in memory, `stream` on what is not; `pictures` draws.
"""

from dlwp_jax.data import (
    arrays,
    audio,
    augment,
    batches,
    cifar,
    dicom,
    hdf5,
    idx,
    image,
    imagenet,
    pictures,
    series,
    sources,
    stream,
    synthetic,
    table,
    text,
    video,
    volume,
)
from dlwp_jax.data.arrays import Scale, k_fold, split, standardize, take
from dlwp_jax.data.batches import balanced_rows, batch_plan
from dlwp_jax.data.fetch import FetchError, data_root
from dlwp_jax.data.files import BrokenFile
from dlwp_jax.data.sources import SOURCES, load, place, thermometer

__all__ = [
    "SOURCES",
    "BrokenFile",
    "FetchError",
    "Scale",
    "arrays",
    "audio",
    "augment",
    "balanced_rows",
    "batch_plan",
    "batches",
    "cifar",
    "data_root",
    "dicom",
    "hdf5",
    "idx",
    "image",
    "imagenet",
    "k_fold",
    "load",
    "pictures",
    "place",
    "series",
    "sources",
    "split",
    "standardize",
    "stream",
    "synthetic",
    "table",
    "take",
    "text",
    "thermometer",
    "video",
    "volume",
]
