"""Subjects: the readers of `dlwp_jax.data`, given what is no path, no file, or another file.

Damaged bytes are tests/test_data_damage.py's: truncated, changed and random ones, of every
format.
"""

import pathlib
import tempfile

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from dlwp_jax.data import (
    audio,
    cifar,
    dicom,
    files,
    idx,
    image,
    imagenet,
    sources,
    table,
    text,
    video,
    volume,
)
from tests.properties.hostile import recipes
from tests.properties.subject import subject
from tests.test_data_damage import READERS, WRITERS

ROOT = pathlib.Path(tempfile.mkdtemp(prefix="properties-"))


def written() -> dict[str, pathlib.Path]:
    """A valid file of each kind, under a name with blanks and signs, and others that are
    none.
    """
    made = {}
    for kind, write in WRITERS.items():
        made[kind] = ROOT / f"ein schönes {kind} 图.{kind}"
        write(made[kind])
    made["words"] = ROOT / "words.txt"
    made["words"].write_text("Naïve.\nbut true\n", "utf-8")
    made["empty"] = ROOT / "empty"
    made["empty"].write_bytes(b"")
    made["zeros"] = ROOT / "zeros.png"
    made["zeros"].write_bytes(bytes(1000))
    made["bomb"] = ROOT / "bomb.idx"  # 10**9 pictures are announced, none is there
    made["bomb"].write_bytes(bytes([0, 0, 8, 3]) + (10**9).to_bytes(4, "big") * 3)
    huge = bytearray(made["png"].read_bytes())
    huge[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    made["huge"] = ROOT / "huge.png"
    made["huge"].write_bytes(huge)
    made["mhd"] = ROOT / "huge.mhd"
    made["mhd"].write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 9000 9000 9000\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    return made


PATHS = written()
EVERY = st.sampled_from(
    [
        *PATHS.values(),
        ROOT,
        ROOT / "absent",
        str(ROOT),
        "",
        "a\0b",
        *recipes("b'x'", "3", "['x']"),
    ]
)


def reader(name: str, kind: str, call, expected, **options) -> None:
    def reference(path):
        if isinstance(path, str | pathlib.Path) and pathlib.Path(path) == PATHS[kind]:
            return expected()
        raise ValueError("no file of this kind")

    subject(
        name,
        call,
        takes={"path": st.sampled_from([PATHS[kind], str(PATHS[kind])])},
        reference=reference,
        near={"path": EVERY},
        words=("damaged", "file", str(ROOT), *options.pop("words", ())),
        examples=(24, 40),
        **options,
    )


def known(kind):
    found = READERS[kind](
        PATHS[kind]
    )  # what the file holds is compared in the tests of each format
    return lambda: found


def picture(path):
    if (
        not isinstance(path, str | pathlib.Path)
        or not str(path).endswith(("png", "jpeg"))
        or "huge" in str(path)
    ):
        raise TypeError("no picture")
    with Image.open(path) as opened:
        return np.asarray(opened)


subject(
    "data.image.read",
    lambda path: image.read(path),
    takes={"path": st.sampled_from([PATHS["png"], str(PATHS["jpeg"])])},
    reference=picture,
    near={"path": EVERY},
    words=(str(ROOT),),
    examples=(24, 40),
)
reader("data.audio.read", "wav", lambda path: audio.read(path)[0], known("wav"))
reader("data.dicom.read_slice", "dicom", lambda path: dicom.read_slice(path)[1], known("dicom"))
reader("data.idx.read", "idx", lambda path: idx.read(path), known("idx"))
reader(
    "data.table.read", "csv", lambda path: table.read(path).values, known("csv"), words=("nul",)
)
reader(
    "data.cifar.read_batches",
    "pickle",
    lambda path: cifar.read_batches([path])["image"],
    known("pickle"),
)
NOT_TEXT = ("png", "jpeg", "wav", "dicom", "pickle", "idx", "bomb", "huge")


def decoded(path):
    if not isinstance(path, str | pathlib.Path) or not str(path):
        raise TypeError("no path")
    return pathlib.Path(path).read_text("utf-8")


subject(
    "data.text.read",
    lambda path, encoding: text.read(path, encoding=encoding),
    takes={"path": st.just(PATHS["words"]), "encoding": st.just("utf-8")},
    reference=lambda path, encoding: (decoded(path), pathlib.Path(path).read_text(encoding))[1],
    near={
        "path": EVERY,
        "encoding": st.sampled_from(["utf-8-sig", "nonsense", "ascii", "utf-16", "base64"]),
    },
    words=(str(ROOT),),
    examples=(24, 40),
)


def columns(path):
    names, *rows = [line.split(",") for line in decoded(path).splitlines() if line]
    if (
        not rows
        or any(len(row) != len(names) or "" in row for row in rows)
        or "\0" in str(names)
    ):
        raise ValueError("no table")

    def column(fields):
        try:
            return np.array(fields, float)
        except ValueError:
            return np.array(fields)

    return {
        name: column(fields)
        for name, fields in zip(names, zip(*rows, strict=True), strict=True)
    }


subject(
    "data.table.read_columns",
    lambda path: table.read_columns(path),
    takes={"path": st.just(PATHS["csv"])},
    reference=columns,
    near={"path": EVERY},
    words=(str(ROOT),),
    examples=(24, 40),
)
subject(
    "data.imagenet.read_labels",
    lambda path, classes: imagenet.read_labels(path, classes),
    takes={"path": st.just(PATHS["words"]), "classes": st.just(2)},
    reference=lambda path, classes: decoded(path).split("\n")[
        : 2
        if type(classes) is not bool and classes == 2 and pathlib.Path(path) == PATHS["words"]
        else 1 // 0
    ],
    near={"path": EVERY},
    words=(str(ROOT),),
    examples=(24, 40),
)


def impossible(**_):
    raise ValueError("none of these can be read")


for _name, _call, _argument in (
    ("data.video.read", lambda path: video.read(path), "path"),
    ("data.video.frames", lambda path: list(video.frames(path)), "path"),
    ("data.volume.read_mhd", lambda path: volume.read_mhd(path), "path"),
    ("data.dicom.read_series", lambda folder: dicom.read_series(folder), "folder"),
    ("data.cifar.read", lambda folder: cifar.read(folder), "folder"),
    ("data.sources.luna_scans", lambda folder: sources.luna_scans(folder), "folder"),
):
    others = [
        path
        for path in (*PATHS.values(), ROOT / "absent")
        if _name.startswith("data.video") is False or path.suffix not in (".png", ".jpeg")
    ]
    subject(
        _name,
        _call,
        takes={_argument: st.just(ROOT / "absent")},
        reference=impossible,
        right=False,
        near={_argument: st.sampled_from(others)},
        words=(str(ROOT), "path"),
        examples=(24, 40),
    )
subject(
    "data.files.files_in",
    lambda folder, suffix: files.files_in(folder, suffix),
    takes={"folder": st.just(ROOT), "suffix": st.sampled_from([".png", ".txt"])},
    reference=lambda folder, suffix: (
        sorted(
            p
            for p in pathlib.Path(folder).iterdir()
            if p.suffix.lower() == suffix and p.name[0] != "."
        )
        or 1 / 0
    ),
    near={"folder": EVERY},
    words=(str(ROOT),),
)
subject(
    "data.sources.find",
    lambda name: sources.find(name),
    takes={"name": st.sampled_from(sorted(sources.SOURCES))},
    reference=lambda name: sources.SOURCES[name] if isinstance(name, str) else 1 / 0,
    words=("data set",),
)
