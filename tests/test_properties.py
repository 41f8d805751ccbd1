"""Every public function of storage, data, train, search and diagnose against values that nobody
should pass.

Each is registered (tests/properties) with what it takes and with an independent reference. It
is called with valid arguments, which must succeed, and with hostile ones in the place of one or
two of them; then the result is right by the reference, or an error says what is wrong
(tests/properties/judge.py).

`DLWP_HYPOTHESIS=count python -m pytest -n 0 -q tests/test_properties.py` prints how many calls
there were and what came of them; with `deep` in place of `count` it tries more, and other ones
each time.
"""

import importlib
import inspect
import os
import pkgutil
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from dlwp_jax import data, storage
from tests.properties import data as _data  # noqa: F401 (each registers its subjects)
from tests.properties import diagnose as _diagnose  # noqa: F401
from tests.properties import judge
from tests.properties import pictures_and_sound as _pictures  # noqa: F401
from tests.properties import search as _search  # noqa: F401
from tests.properties import storage as _storage  # noqa: F401
from tests.properties import storage_written as _written  # noqa: F401
from tests.properties import tables_and_text as _tables  # noqa: F401
from tests.properties import train as _train  # noqa: F401
from tests.properties.subject import SUBJECTS, hostile, try_hostile, try_valid

ASKED = os.environ.get("DLWP_HYPOTHESIS")
DEEP = ASKED == "deep"


def trying(name, *, share=1.0):
    """The same examples in every run (other ones each time where it goes deep), and no
    deadline: shapes compile.
    """
    fast, deep = SUBJECTS[name].examples
    return settings(
        max_examples=max(1, round(share * (deep if DEEP else fast))),
        deadline=None,
        database=None,
        derandomize=not DEEP,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("name", [name for name, one in SUBJECTS.items() if one.right])
def test_what_is_right_is_taken(name):
    @trying(name, share=0.15)
    @given(arguments=SUBJECTS[name].valid)
    def check(arguments):
        try_valid(SUBJECTS[name], arguments)

    check()


@pytest.mark.parametrize("name", [name for name, one in SUBJECTS.items() if one.replaceable])
def test_what_is_wrong_is_refused_or_right_all_the_same(name):
    @trying(name)
    @given(arguments=hostile(SUBJECTS[name]))
    def check(arguments):
        try_hostile(SUBJECTS[name], arguments)

    check()


# Public names without a subject, and why. A new public function must have either.
RECORDS = "a record that only holds what its function gives"
TAKES_NOTHING = "takes no argument; tests/test_data_sources.py checks what it gives"
METHODS = (
    "methods of a finished search, tried on real ones in tests/test_search_sweep.py and "
    "test_search_capacity.py"
)
SECONDS = "seconds a call; its checks are tried by name in tests/test_search_"
REASONS = {
    **dict.fromkeys(
        ("train.Learner", "train.TrainState", "train.Run", "train.Progress", "train.Ratio"),
        RECORDS,
    ),
    **dict.fromkeys(
        ("search.LearningRates", "search.Memory", "search.Setting", "search.Size"), RECORDS
    ),
    **dict.fromkeys(("search.LearningCurve", "search.CapacityReport", "search.Sweep"), METHODS),
    **dict.fromkeys(("diagnose.VERDICTS", "diagnose.Diagnosis"), RECORDS),
    **dict.fromkeys(
        (
            "data.audio.Spectrogram",
            "data.batches.Plan",
            "data.sources.Source",
            "data.fetch.Remote",
        ),
        RECORDS,
    ),
    **dict.fromkeys(
        ("data.synthetic.Nodule", "data.synthetic.Phantom", "data.table.Table"), RECORDS
    ),
    **dict.fromkeys(("data.table.Agreement", "data.table.Roc", "data.arrays.Scale"), RECORDS),
    **dict.fromkeys(("data.chest.Chest", "data.chest.Lesion", "data.mapped.Mapped"), RECORDS),
    **dict.fromkeys(
        ("data.chest.chest_ct", "data.chest.malignancy", "data.mapped.build"),
        "tests/test_nodules_data.py",
    ),
    "data.augment.Augment": "tests/test_nodules_classifier.py and test_nodules_segment.py",
    "data.table.roc": "tests/test_nodules_classifier.py, with scikit-learn as referee",
    "data.volume.write_mhd": "tests/test_nodules_detect.py reads its files",
    **dict.fromkeys(("train.to_csv", "train.to_tensorboard"), "tests/test_train_records.py"),
    **dict.fromkeys(("data.files.BrokenFile", "data.fetch.FetchError"), "an exception"),
    **{
        f"data.sources.{name}": TAKES_NOTHING
        for name in ("thermometer", "digits", "pydoc_topics", "sklearn_wine", "sample_photos")
        + ("phantom_annotations", "phantom_candidates")
    },
    "data.fetch.data_root": TAKES_NOTHING,
    "data.fetch.fetch": "a network is needed; tests/test_data_sources.py serves one",
    "data.sources.place": "as fetch",
    "data.sources.load": "as fetch; tests/test_data_sources.py loads every name",
    **dict.fromkeys(
        (
            *("data.audio.read", "data.cifar.read_batches", "data.dicom.read_slice"),
            *("data.idx.read", "data.image.read", "data.table.read"),
        ),
        "a reader; tests/test_data_damage.py damages its files",
    ),
    **dict.fromkeys(
        (
            *("data.cifar.read", "data.dicom.read_series", "data.files.files_in"),
            *("data.imagenet.read_labels", "data.sources.find", "data.sources.luna_scans"),
            *("data.table.read_columns", "data.text.read", "data.video.frames"),
            *("data.video.read", "data.volume.read_mhd"),
        ),
        "a reader; its own tests give it files that are absent, damaged, or of another kind",
    ),
    "data.files.reading": "a context for readers, all of which are tried",
    "data.hdf5.read": "tests/test_data_book.py reads the book's file",
    "data.image.read_classes": "read and resize, which are tried",
    **dict.fromkeys(
        ("data.sampling.Balanced", "data.sampling.Weighted"), "made by functions of this module"
    ),
    **{
        f"data.sampling.{name}": "tests/test_data_sampling.py, with torch as referee"
        for name in ("balanced", "weighted", "epoch_of")
    },
    "data.image.read_folder": "read, resize and files_in, which are tried",
    "data.idx.read_pair": "read twice, which is tried",
    "data.stream.stream": "tests/test_data_arrays.py; each call starts threads",
    **{
        f"data.pictures.{name}": "draws; tests/test_data_experiment.py and its doctest do so"
        for name in ("grid", "planes", "histograms", "day", "characters", "sound")
    },
    "search.learning_curve": f"{SECONDS}probes.py",
    "search.search_capacity": f"{SECONDS}capacity.py",
    "storage.Layout.offset": "a field",
    "storage.StridedTensor.tree_flatten_with_keys": (
        "JAX's own protocol, tried by every jit in tests/test_storage.py"
    ),
    "storage.StridedTensor.tree_unflatten": "JAX's own protocol, unchecked on purpose",
}


def public_names():
    """Every public function and class, and the methods of those classes whose arguments are a
    user's.
    """
    for module in ("train", "storage", "search", "diagnose"):
        for name in importlib.import_module(f"dlwp_jax.{module}").__all__:
            yield f"{module}.{name}"
    for cls in (storage.Layout, storage.StridedTensor):
        yield from (
            f"storage.{cls.__name__}.{name}" for name in dir(cls) if not name.startswith("_")
        )
    for found in pkgutil.iter_modules(data.__path__):
        module = importlib.import_module(f"dlwp_jax.data.{found.name}")
        for name, thing in vars(module).items():
            if (
                not name.startswith("_")
                and found.name[0] != "_"
                and getattr(thing, "__module__", "") == module.__name__
            ) and callable(thing):
                yield f"data.{found.name}.{name}"
    for cls in (data.arrays.Scale, data.volume.Volume):
        where = f"data.{cls.__module__.rsplit('.', 1)[-1]}.{cls.__name__}"
        yield from (
            f"{where}.{name}"
            for name, _ in inspect.getmembers(cls, callable)
            if not name.startswith("_")
        )


def test_every_public_name_is_tried_or_told_why_not():
    names = set(public_names())
    assert names - set(SUBJECTS) - set(REASONS) == set()
    assert set(REASONS) - names == set(), "reasons for what is gone"
    assert set(SUBJECTS) & set(REASONS) == set()


@pytest.fixture(autouse=True, scope="module")
def _told(request):
    """What came of all calls, by room, printed at the end where it is asked for."""
    yield
    if not ASKED:
        return
    totals: dict[str, Counter[str]] = {}
    for (name, what), count in judge.counts.items():
        totals.setdefault(SUBJECTS[name].room, Counter())[what] += count
    lines = ["", "| room | functions | calls | right | refused |", "|---|---|---|---|---|"]
    for room, total in sorted(totals.items()):
        n = sum(one.room == room for one in SUBJECTS.values())
        lines.append(
            f"| {room} | {n} | {total['tried']:,} | {total['right']:,} | {total['refused']:,} |"
        )
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(*lines, sep="\n")
