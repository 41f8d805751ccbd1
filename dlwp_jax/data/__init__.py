"""From files to well-shaped arrays (chapters 4, 7 and 10).

A data set in memory is any pytree of arrays with a common leading axis: one example per row.
Readers give NumPy arrays, channels last, in the file's own unit and type. The functions that
run inside a compiled program (`augment`, `audio.spectrogram`, `text.embed`, samplers) use JAX.

There is one module for each kind of data: `image` (and `imagenet` for its networks), `volume`
and `dicom`, `table`, `series`, `text`, `audio`, `video`, `hdf5`. `sources` names whole data
sets. `arrays`, `batches`, `sampling` and `augment` work on data in memory, `stream` on data
that is larger, `mapped` on pieces of large files that are cut once; `pictures` draws.
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
    mapped,
    pictures,
    sampling,
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
from dlwp_jax.data.sampling import balanced, epoch_of, weighted
from dlwp_jax.data.sources import SOURCES, load, place, thermometer

__all__ = [
    "SOURCES",
    "BrokenFile",
    "FetchError",
    "Scale",
    "arrays",
    "audio",
    "augment",
    "balanced",
    "balanced_rows",
    "batch_plan",
    "batches",
    "cifar",
    "data_root",
    "dicom",
    "epoch_of",
    "hdf5",
    "idx",
    "image",
    "imagenet",
    "k_fold",
    "load",
    "mapped",
    "pictures",
    "place",
    "sampling",
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
    "weighted",
]
