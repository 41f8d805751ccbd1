"""Data: files into memory, against reading the same bytes and against the library's own loop

CIFAR-10: the six official batch files to `[60000 32 32 3]` and labels, against `numpy.fromfile`
of the same six files (which leaves planes, unlabelled, in six arrays). CT: a DICOM series
sorted, checked and in Hounsfield units, against `pydicom.dcmread(path).pixel_array` for each
file. Both from the page cache. Needs the real data under DLWP_DATA.
"""

import numpy as np
import pydicom
from timing import interleaved, readable

from dlwp_jax import data


def measure() -> list[dict[str, str]]:
    cifar, series = data.place("cifar10"), data.place("book-ct")
    batches = [cifar / name for name in (*data.cifar.TRAIN, *data.cifar.TEST)]
    slices = sorted(series.glob("*.dcm"))
    return [
        compare(
            f"CIFAR-10, {sum(path.stat().st_size for path in batches) / 1e6:.0f} MB",
            lambda: data.cifar.read(cifar),
            "numpy.fromfile",
            lambda: [np.fromfile(path, np.uint8) for path in batches],
        ),
        compare(
            f"CT series, {len(slices)} slices",
            lambda: data.dicom.read_series(series),
            "pydicom pixel_array loop",
            lambda: np.stack([pydicom.dcmread(path).pixel_array for path in slices]),
        ),
    ]


def compare(work: str, ours, other: str, theirs) -> dict[str, str]:
    times = interleaved({"ours": ours, "theirs": theirs}, rounds=15)
    return {
        "work": work,
        "dlwp_jax": readable(times["ours"]),
        "against": other,
        "time": readable(times["theirs"]),
        "ratio": f"{times['ours'] / times['theirs']:.2f}",
    }
