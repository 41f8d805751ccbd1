"""Chapter 14: all networks together on scans that none of them has seen.

Run:    python -m experiments nodules end_to_end
        python -m experiments nodules end_to_end --luna DIR
Writes: runs/nodules_end_to_end/{config.json,results.json,froc.png,malignancy.png} and the
        folder `weights`, for: python -m experiments nodules detect --series DIR --weights ...
Expect: made-up cohort, seed 0: .98 of the nodules segmented, .92 found with 2 false alarms a
        scan, FROC .85; malignancy: ROC area .90, of the diameter .86. With the networks of
        chapters 12 and 13 about five minutes on two cores, or ten on slow ones

The networks of chapters 12 and 13 are taken from their runs if these were of the same scans,
and trained otherwise. A third one, benign or malignant, starts from the weights of chapter 12.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from dlwp_jax import data, nn, runs, train
from dlwp_jax.data import table
from dlwp_jax.files import whole
from experiments.nodules import classifier, classify, detector, scores, segment, source
from experiments.nodules.candidates import Candidates
from experiments.nodules.detector import Detector, Trained
from experiments.nodules.luna import Luna

# The parts of `LunaModel` that have parameters, in their order.
PARTS = ("tail_batchnorm", "block1", "block2", "block3", "block4", "head_linear")
SAME = ("luna", "scans", "full", "seed")  # flags that choose the scans, and who is held back
OTHERS = 3  # places without a nodule for each nodule, in the trainings of this chapter
HARDEST = 100  # false groups that are taken of a scan, at most
ORDER = (1, 2, 0, 2)  # benign, malignant, no nodule, malignant: every second one is malignant


@dataclass(frozen=True)
class Config(source.Config):
    mined: int = 24  # scans whose false groups the classifier learns from; 0 leaves that out
    again: int = 6000  # candidates that it sees in doing so
    again_lr: float = 1e-3
    epochs: int = 24  # of the fine-tuning
    samples: int = 960  # chunks in an epoch of it
    batch_size: int = 16
    lr: float = 2e-3
    depth: int = 6  # parts of the classifier that are trained on, from the end; 1 is its head

    def __post_init__(self):
        if not 1 <= self.depth <= len(PARTS):
            raise ValueError(f"--depth {self.depth} must be from 1 to {len(PARTS)}.")
        if self.mined < 0 or self.again < 1:
            raise ValueError("--mined must be at least 0, and --again at least 1.")


# The networks of the chapters before


def is_of_the_same_scans(folder: Path, config: source.Config) -> bool:
    """Whether a run was of these scans, with the same ones held back."""
    if not (folder / "config.json").is_file():
        return False
    found = json.loads((folder / "config.json").read_text())
    return all(str(found.get(name)) == str(getattr(config, name)) for name in SAME)


def network(config: Config, kind: str, chapter: ModuleType, empty: nnx.Module) -> Trained:
    """The network that a chapter's command has trained; the command runs first if it has not.

    Args:
      kind: "segmentation" or "classifier".
      chapter: the module of the command.
      empty: the network, to be filled.
    """
    folder = config.out / f"nodules_{chapter.__name__.rpartition('.')[2]}"
    file = folder / detector.FILES[kind]
    if not (file.is_file() and is_of_the_same_scans(folder, config)):
        fields = {name: getattr(config, name) for name in source.Config.__dataclass_fields__}
        chapter.main(chapter.Config(**fields))
    return detector.filled(file, empty)


# The classifier, and what the segmentation finds


class Groups(NamedTuple):
    """Chunks around groups of the segmentation."""

    voxels: np.ndarray  # [n *width] int16
    is_nodule: np.ndarray  # [n] bool: it counts for a nodule


def mine(config: Config, networks: Detector, scans: Luna) -> Groups:
    """Find nodules in some of the scans that the networks have learned from.

    Of the groups that count for no nodule those are kept that the classifier thinks the most
    probable ones.
    """
    truth = segment.nodules_in(scans)
    names = np.array(list(scans.scans))
    known = names[~segment.is_held(config, scans, names)]
    voxels = [np.empty((0, *config.width), np.int16)]
    is_nodule = [np.empty(0, bool)]
    for name in known[: config.mined].tolist():
        scan = segment.read_or_skip(config, scans.scans[name])
        if scan is None:
            continue
        found = detector.find(networks, scan)
        there = truth.take(truth.series == name)
        places = scan.xyz(np.round(found.groups.centers))
        touching = scores.hits(places, there.center, there.diameter, scores.LUNAS_REACH)
        is_true = touching.any(axis=0)
        order = np.argsort(np.where(is_true, np.inf, found.probability))[::-1]
        rows = order[: is_true.sum() + HARDEST]
        whole_scan = detector.at_least(scan, config.width)
        cut = [whole_scan.chunk(places[row], config.width)[0] for row in rows]
        voxels.append(np.rint(cut).astype(np.int16).reshape(-1, *config.width))
        is_nodule.append(is_true[rows])
    groups = Groups(np.concatenate(voxels), np.concatenate(is_nodule))
    print(
        f"{groups.is_nodule.sum()} groups of nodules and {np.sum(~groups.is_nodule)} others to "
        "learn from",
        flush=True,
    )
    return groups


def learn_on(config: Config, base: Trained, nodules: Nodules, groups: Groups) -> Trained:
    """Train the classifier on, with the groups of the segmentation among its candidates.

    The classifier of chapter 12 has never seen what the segmentation takes for nodules.
    """
    known = np.flatnonzero(~nodules.chunks.is_held)
    images = np.concatenate([nodules.chunks.voxels[known], groups.voxels])[..., None]
    is_nodule = np.concatenate([nodules.kind[known] > 0, groups.is_nodule])
    is_group = np.arange(len(is_nodule)) >= len(known)
    kind = np.where(is_nodule, 1, np.where(is_group, 2, 0))
    if groups.is_nodule.all() or not groups.is_nodule.any():
        return base
    steps = config.again // config.batch_size
    learner, state = train.make_learner(
        base[0].model(base[1]),
        classifier.loss_fn,
        optax.adam(optax.cosine_decay_schedule(config.again_lr, steps)),
        key=jax.random.key(config.seed),
    )
    result = train.fit(
        learner,
        state,
        {"image": images, "label": is_nodule.astype(np.int32)},
        epochs=1,
        batch_size=config.batch_size,
        sampler=data.balanced(kind, order=(1, 2, 1, 0), n=config.again),
        transform=classifier.Oftener(
            classifier.changes(config), classifier.log_odds(groups.is_nodule, ratio=1)
        ),
    )
    return learner, result.state


# Benign or malignant


class Nodules(NamedTuple):
    """Chunks of nodules that were judged, and of some other places."""

    chunks: source.Chunks
    kind: np.ndarray  # [n] 0 no nodule, 1 benign, 2 malignant


def judged(config: Config, scans: Luna) -> Nodules:
    """All nodules, and three times as many other places, drawn at random."""
    rows = scans.nodules
    others = np.flatnonzero(~rows.is_nodule)
    rng = np.random.default_rng(config.seed)
    wanted = min(OTHERS * int(rows.is_nodule.sum()), len(others))
    some = rng.choice(others, size=wanted, replace=False)
    chosen = np.sort(np.concatenate([np.flatnonzero(rows.is_nodule), some]))
    chunks = source.cut_chunks(config, scans, rows.take(chosen))
    is_held = segment.is_held(config, scans, chunks.candidates.series)
    kind = chunks.candidates.is_nodule.astype(int) + chunks.candidates.is_malignant
    return Nodules(chunks._replace(is_held=is_held), kind)


def fine_tune(config: Config, base: Trained, nodules: Nodules, depth: int) -> Trained:
    """Train the last parts of the classifier on: malignant, or not.

    The head is drawn anew, as in the book; the other parts start from the weights of chapter
    12, and those before the last `depth` ones stay as they are.
    """
    learner, state = base
    model = learner.model(state)
    inputs, outputs = model.head_linear.kernel.shape
    model.head_linear = nn.Linear(inputs, outputs, rngs=nnx.Rngs(config.seed))
    parts = nnx.Any(*(nnx.PathContains(part) for part in PARTS[-depth:]))
    steps = config.epochs * config.samples // config.batch_size
    tuned, start = train.make_learner(
        model,
        classifier.loss_fn,
        optax.adam(optax.cosine_decay_schedule(config.lr, steps)),
        key=jax.random.key(config.seed),
        trainable=nnx.All(nnx.Param, parts),
    )
    known = np.flatnonzero(~nodules.chunks.is_held)
    images = nodules.chunks.voxels[known][..., None]
    labels = (nodules.kind[known] == 2).astype(np.int32)
    result = train.fit(
        tuned,
        start,
        {"image": images, "label": labels},
        epochs=config.epochs,
        batch_size=config.batch_size,
        sampler=data.balanced(nodules.kind[known], order=ORDER, n=config.samples),
        # Without stretching: the size of a nodule tells whether it is malignant.
        transform=dataclasses.replace(classifier.changes(config), stretch=0.0),
    )
    return tuned, result.state


def malignancy_scores(trained: Trained, nodules: Nodules, rows: np.ndarray) -> np.ndarray:
    """The probability of malignancy of some rows."""
    voxels = nodules.chunks.voxels[rows]
    return detector.probabilities(trained, voxels.__getitem__, len(rows), mirrored=True)


def compare(config: Config, base: Trained, nodules: Nodules):
    """Fine-tuning of the head and of more, against the diameter: curves on held-out nodules.

    Returns:
      Name -> `table.Roc`, and the network of `config.depth`.
    """
    rows = np.flatnonzero(nodules.chunks.is_held & (nodules.kind > 0))
    truth = nodules.kind[rows] == 2
    if truth.all() or not truth.any():
        raise ValueError(
            f"the {len(rows)} held-out nodules are all "
            f"{'malignant' if truth.all() else 'benign'}; take more scans."
        )
    curves = {"the diameter alone": table.roc(truth, nodules.chunks.candidates.diameter[rows])}
    networks = {}
    for depth in sorted({1, config.depth}):
        networks[depth] = fine_tune(config, base, nodules, depth)
        name = {1: "the head alone", len(PARTS): "all parts"}.get(
            depth, f"the last {depth} parts"
        )
        chances = malignancy_scores(networks[depth], nodules, rows)
        curves[name] = table.roc(truth, chances)
    print(
        f"benign or malignant, {len(rows)} held-out nodules, {truth.sum()} of them malignant:"
    )
    for name, curve in curves.items():
        print(f"  area under the ROC of {name}: {curve.area:.3f}")
    return curves, networks[config.depth]


# All together


class Results(NamedTuple):
    confusion: np.ndarray  # [3 4], rows TRUTHS, columns OUTCOMES
    curve: scores.Froc
    nodules: int
    segmented: int  # nodules that a group of the segmentation counts for
    scans: int


def evaluate(config: source.Config, networks: Detector, scans: Luna) -> Results:
    """Find nodules in the scans that were held back, one scan at a time."""
    truth = segment.nodules_in(scans)
    names = np.array(list(scans.scans))
    held = names[segment.is_held(config, scans, names)]
    total = np.zeros((3, 4), int)
    per_scan, segmented = [], 0
    for name in held.tolist():
        scan = segment.read_or_skip(config, scans.scans[name])
        if scan is None:
            continue
        found = detector.find(networks, scan)
        there: Candidates = truth.take(truth.series == name)
        places = scan.xyz(found.groups.centers)
        touching = scores.hits(places, there.center, there.diameter, scores.BOOKS_REACH)
        segmented += int(touching.any(axis=1).sum())
        malignancy = found.probability * 0 if found.malignancy is None else found.malignancy
        total += scores.confusion(touching, found.probability, malignancy, there.is_malignant)
        near = scores.hits(places, there.center, there.diameter, scores.LUNAS_REACH)
        per_scan.append((near, found.probability))
    return Results(total, scores.froc(per_scan), total[1:].sum(), segmented, len(per_scan))


def show(results: Results) -> dict[str, float]:
    """Print the table of chapter 14 and the scores; gives the scores by name."""
    print(f"{'':12s}" + "".join(f"{name:>18s}" for name in scores.OUTCOMES))
    for number, (name, row) in enumerate(zip(scores.TRUTHS, results.confusion, strict=True)):
        cells = [str(count) for count in row]
        if number == 0:
            cells[0] = ""
        print(f"{name:12s}" + "".join(f"{cell:>18s}" for cell in cells))
    recall = results.segmented / results.nodules
    at_two = float(results.curve.at([2.0])[0])
    print(f"{results.nodules} nodules in {results.scans} held-out scans:")
    print(f"  segmented: {recall:.3f}")
    print(f"  found with 2 false positives a scan: {at_two:.3f}")
    print(f"  FROC score: {results.curve.score:.3f}")
    return {"segmented": recall, "at 2 false positives": at_two, "froc": results.curve.score}


def draw_froc(curve: scores.Froc):
    figure, axes = plt.subplots(figsize=(5.6, 4), layout="constrained")
    axes.plot(curve.false_positives, curve.sensitivity)
    axes.plot(scores.LUNAS_RATES, curve.at(), "o", color="C1", label="rates of the score")
    axes.set_xscale("log", base=2)
    axes.set(
        xlim=(1 / 8, 16),
        ylim=(0, 1),
        xlabel="false positives a scan",
        ylabel="nodules found, as a share",
        title=f"FROC score {curve.score:.3f}",
    )
    axes.set_xticks([1 / 8, 1 / 2, 2, 8], ["1/8", "1/2", "2", "8"])
    axes.legend(loc="lower right")
    return figure


def draw_roc(curves: dict[str, table.Roc]):
    figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    for name, curve in curves.items():
        label = f"{name}, area {curve.area:.3f}"
        axes.plot(curve.false_positive_rate, curve.true_positive_rate, label=label)
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":")
    axes.set(
        xlabel="benign ones called malignant, as a share",
        ylabel="malignant ones found, as a share",
        title="Benign or malignant, held-out nodules",
    )
    axes.legend(loc="lower right")
    return figure


def main(config: Config):
    scans = source.open_source(config)
    run = runs.start("nodules_end_to_end", config, out=config.out)
    u_net = network(
        config, "segmentation", segment, detector.unfilled(detector.new_segmentation)
    )
    empty = detector.unfilled(lambda: detector.new_classifier(config.width))
    base = network(config, "classifier", classify, empty)
    nodules = judged(config, scans)
    curves, malignancy = compare(config, base, nodules)
    networks = Detector(
        u_net, base, None, config.width, config.erosions, config.sure, mirrored=True
    )
    better = learn_on(config, base, nodules, mine(config, networks, scans))
    networks = networks._replace(classifier=better, malignancy=malignancy)
    detector.save(run.path / "weights", networks)
    results = evaluate(config, networks, scans)
    figures = show(results)
    figures |= {f"area of {name}": curve.area for name, curve in curves.items()}
    with whole(run.path / "results.json") as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n")
    run.figure(draw_froc(results.curve), "froc.png")
    run.figure(draw_roc(curves), "malignancy.png")
    print(f"wrote {run.path / 'weights'}, for: nodules detect --series DIR --weights ...")
