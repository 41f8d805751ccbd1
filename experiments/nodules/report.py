"""One HTML page about the findings in a scan, complete in itself: pictures are inside of it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from dlwp_jax.data.volume import Volume, window

VIEW_MM = 60.0  # side of the pictures of a finding
VIEW_PIXELS = 240
OVERVIEW_PIXELS = 420  # height
OUTLINE = (255, 150, 30)
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}  # the axis of the array that is left out
DISCLAIMER = (
    "This page is a teaching example and no medical device. It was made by small networks for "
    "a book's readers, misses nodules, and reports places that are none. Do not use it to "
    "judge anybody's health; ask a radiologist."
)


class Row(NamedTuple):
    """A finding as the page shows it."""

    irc: tuple[int, int, int]
    xyz: tuple[float, float, float]  # millimetres
    diameter: float  # millimetres, of a ball of the same volume
    volume: float  # cubic millimetres
    probability: float
    malignancy: float | None
    mask: np.ndarray  # [index row column] bool, of the box
    corner: tuple[int, int, int]  # the first voxel of the box


def page(title: str, facts: dict[str, str], scan: Volume, rows: Sequence[Row]) -> str:
    """The page.

    Args:
      title: the scan's name.
      facts: what the reader should know of the scan and the search, name -> text.
      scan: in Hounsfield units.
      rows: findings in the order in which they are listed.
    """
    listed = "".join(f"<dt>{_safe(n)}</dt><dd>{_safe(t)}</dd>" for n, t in facts.items())
    parts = [
        f"<h1>{_safe(title)}</h1>",
        f'<p class="warning" role="note">{_safe(DISCLAIMER)}</p>',
        f"<dl>{listed}</dl>",
        "<h2>Overview</h2>",
        f'<div class="overview">{_overview(scan, rows)}</div>',
        "<h2>Findings</h2>",
        _table(rows),
        _details(scan, rows),
    ]
    body = "\n".join(part for part in parts if part)
    return _PAGE.format(title=_safe(title), style=_STYLE, body=body)


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return "<p>Nothing was found above the threshold.</p>"
    has_malignancy = rows[0].malignancy is not None
    heads = ["", "nodule", *(["malignant"] if has_malignancy else [])]
    heads += ["diameter<br>mm", "volume<br>mm³", "x<br>mm", "y<br>mm", "z<br>mm", "slice"]
    lines = []
    for number, row in enumerate(rows, 1):
        cells = [f'<a href="#f{number}">{number}</a>', f"{row.probability:.2f}"]
        if row.malignancy is not None:
            cells.append(f"{row.malignancy:.2f}")
        cells += [f"{row.diameter:.1f}", f"{row.volume:.0f}"]
        cells += [f"{value:.1f}" for value in row.xyz]
        cells.append(f"{row.irc[0] + 1}")
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        "<p>Columns “nodule” and “malignant” are the networks’ probabilities. x runs to the "
        "patient’s left, y to the back, z to the head. The diameter is that of a ball of the "
        "same volume.</p>"
    )


def _details(scan: Volume, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    toggle = (
        '<label class="toggle"><input type="checkbox" id="outlines" checked> outlines</label>'
    )
    sections = [_detail(scan, row, number) for number, row in enumerate(rows, 1)]
    return f"{toggle}\n" + "\n".join(sections)


def _detail(scan: Volume, row: Row, number: int) -> str:
    chances = f"nodule {row.probability:.2f}"
    if row.malignancy is not None:
        chances += f", malignant {row.malignancy:.2f}"
    figures = "".join(_figure(scan, row, name, number) for name in PLANES)
    return (
        f'<section id="f{number}"><h3>{number}. {chances}, {row.diameter:.1f} mm</h3>'
        f'<div class="views">{figures}</div></section>'
    )


def _figure(scan: Volume, row: Row, name: str, number: int) -> str:
    axis = PLANES[name]
    grey = _cut(
        scan.voxels, row.irc, axis, scan, fill=-1000.0, resample=Image.Resampling.BICUBIC
    )
    picture = _png(Image.fromarray((255 * window(grey)).round().astype(np.uint8)))
    whole = np.zeros(scan.voxels.shape[:axis] + scan.voxels.shape[axis + 1 :], bool)
    offset = row.irc[axis] - row.corner[axis]
    if 0 <= offset < row.mask.shape[axis]:
        inside = row.mask.take(offset, axis)
        corner = [c for i, c in enumerate(row.corner) if i != axis]
        box = tuple(slice(c, c + n) for c, n in zip(corner, inside.shape, strict=True))
        whole[box] = inside
    area = _cut_plane(
        whole.astype(np.float32), row.irc, axis, scan, 0.0, Image.Resampling.BILINEAR
    )
    area = np.greater(area, 0.5)
    edge = area & np.logical_not(ndimage.binary_erosion(area, iterations=2))
    layer = np.zeros((*edge.shape, 4), np.uint8)
    layer[edge] = (*OUTLINE, 255)
    outline = _png(Image.fromarray(layer))
    alt = f"finding {number}, {name} plane"
    size = f'width="{VIEW_PIXELS}" height="{VIEW_PIXELS}"'
    return (
        f'<figure><div class="stack"><img {size} src="{picture}" alt="{alt}">'
        f'<img {size} class="outline" src="{outline}" alt=""></div>'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _cut(voxels, irc, axis, scan, *, fill, resample) -> np.ndarray:
    return _cut_plane(voxels.take(irc[axis], axis), irc, axis, scan, fill, resample)


def _cut_plane(plane, irc, axis, scan: Volume, fill: float, resample) -> np.ndarray:
    """A square of `VIEW_MM` around a voxel, upright, `[VIEW_PIXELS VIEW_PIXELS]` float32."""
    sides = [i for i in range(3) if i != axis]
    spacing = scan.spacing[::-1]
    reach = [round(VIEW_MM / 2 / spacing[i]) for i in sides]
    padded = np.pad(plane, [(r, r) for r in reach], constant_values=fill)
    rows, columns = (
        slice(irc[i], irc[i] + 2 * r + 1) for i, r in zip(sides, reach, strict=True)
    )
    cut = _upright(padded[rows, columns], sides, scan).astype(np.float32)
    image = Image.fromarray(np.ascontiguousarray(cut))
    return np.asarray(image.resize((VIEW_PIXELS, VIEW_PIXELS), resample))


def _upright(plane: np.ndarray, sides: Sequence[int], scan: Volume) -> np.ndarray:
    """The head or the front on top, the patient's right, or the front, on the left."""
    for number, side in enumerate(sides):
        rises = scan.direction[2 - side, 2 - side] >= 0
        wanted = side != 0  # slices rise to the head, and rows of a picture go down
        if rises != wanted:
            plane = np.flip(plane, number)
    return plane


def _overview(scan: Volume, rows: Sequence[Row]) -> str:
    """The scan from the front and from the side, as an X-ray shows it, with numbered marks."""
    pictures = []
    for name, axis in (("from the front", 1), ("from the left", 2)):
        sides = [i for i in range(3) if i != axis]
        dense = scan.voxels.mean(axis=axis, dtype=np.float32)
        low, high = np.percentile(dense, (2, 99.5))
        grey = window(_upright(dense, sides, scan), low=float(low), high=float(high) + 1)
        extent = [n * scan.spacing[2 - i] for n, i in zip(dense.shape, sides, strict=True)]
        width = round(OVERVIEW_PIXELS * extent[1] / extent[0])
        image = Image.fromarray((255 * grey).round().astype(np.uint8))
        image = image.resize((width, OVERVIEW_PIXELS), Image.Resampling.BICUBIC)
        numbered = reversed(list(enumerate(rows, 1)))  # the most probable is drawn on top
        marks = "".join(_mark(number, row, sides, scan, width) for number, row in numbered)
        pictures.append(
            f'<figure><svg viewBox="0 0 {width} {OVERVIEW_PIXELS}" role="img" '
            f'aria-label="the scan {name}"><image href="{_png(image)}" width="{width}" '
            f'height="{OVERVIEW_PIXELS}"/>{marks}</svg><figcaption>{name}</figcaption></figure>'
        )
    return "".join(pictures)


def _mark(number: int, row: Row, sides, scan: Volume, width: int) -> str:
    place = []
    for side, length in zip(sides, (OVERVIEW_PIXELS, width), strict=True):
        n = scan.voxels.shape[side]
        share = (row.irc[side] + 0.5) / n
        rises = scan.direction[2 - side, 2 - side] >= 0
        place.append(length * (share if rises == (side != 0) else 1 - share))
    y, x = place
    return (
        f'<a href="#f{number}"><title>finding {number}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
        f'<text x="{x:.1f}" y="{y + 3.5:.1f}">{number}</text></a>'
    )


def _png(image: Image.Image) -> str:
    """A picture as an address that holds it."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _safe(text: str) -> str:
    return html.escape(text)


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6675; --paper: #ffffff;
  --line: #d6dbe2; --warn: #fff3d6; --warn-line: #d08a00; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #a4afbd;
  --paper: #14181d; --line: #343c46; --warn: #3a2e12; --warn-line: #e0a030; --link: #7db8f5; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; } a { color: var(--link); }
.warning { background: var(--warn); border-left: 4px solid var(--warn-line);
  padding: .7rem 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; line-height: 1.2; }
.views, .overview { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; }
.overview svg { height: 26rem; max-width: 100%; background: #000; }
.overview circle { fill: rgb(0 0 0 / .35); stroke: rgb(255 150 30); stroke-width: 1.5; }
.overview text { fill: #fff; font: 600 10px system-ui, sans-serif; text-anchor: middle; }
.stack { position: relative; line-height: 0; } .stack img { max-width: 100%; height: auto; }
.stack .outline { position: absolute; left: 0; top: 0; }
body:has(#outlines:not(:checked)) .outline { display: none; }
.toggle { display: block; margin-top: 1rem; }
section:target h3 { text-decoration: underline; }
@media print { section { break-inside: avoid; } .toggle { display: none; } }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
