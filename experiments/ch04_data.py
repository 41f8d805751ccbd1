"""Chapter 4: seven kinds of data as arrays: shapes, statistics, and a picture of each.

Run:    python -m experiments ch04_data                  embedded stand-ins: no files needed
        python -m experiments ch04_data --data book      the book's own files, under DLWP_DATA
        python -m experiments ch04_data --kinds cifar10 series
Writes: runs/ch04_data/{config.json,image.png,volume.png,table.png,series.png,text.png,
        audio.png,video.png}
Expect: with --data book every figure equals the book's in every digit that it prints (the
        means and standard deviations of CIFAR-10 within 1 % if its pixels were stored as
        JPEG); 7 s, and 10 s with cifar10, on two cores
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dlwp_jax import data, runs
from dlwp_jax.data import audio, image, pictures, series, table, text
from experiments.book import Table

Kind = Literal["image", "cifar10", "volume", "table", "series", "text", "audio", "video"]


@dataclass(frozen=True)
class Config:
    # Stand-ins that need no files, or the book's files.
    data: Literal["embedded", "book"] = "embedded"
    # Which kinds to show.
    kinds: tuple[Kind, ...] = ("image", "volume", "table", "series", "text", "audio", "video")
    out: Path = Path("runs")  # where the run directory is made

    def load(self, name):
        if self.data == "embedded":
            print(f"stand-in: {data.sources.find(name).stand_in}")
        return data.load(name, embedded=self.data == "embedded")

    def figures(self, rtol=1e-5, **rows: tuple[str, float]) -> None:
        """Print the book's figures beside ours, if the data is the book's."""
        if self.data == "book":
            beside = Table(rtol)
            for what, (book, ours) in rows.items():
                beside.row(what.replace("_", " "), book, ours)
            beside.close()


def describe(what, x):
    values = f"{x.min():g} to {x.max():g}, mean {x.mean(dtype=float):.4g}"
    print(f"{what}: shape {np.shape(x)}, {x.dtype}, {values}")


def show_image(config):
    photo, batch = config.load("book-dog"), config.load("book-cats")
    describe("photograph [height width channels]", photo)
    z, scale = image.normalize(batch)
    print(f"batch {batch.shape} normalized:")
    print(f"channel means {scale.offset}, standard deviations {scale.unit}")
    print(f"as torch has it: {image.channels_first(z).shape}")
    config.figures(
        height=("720", photo.shape[0]),
        width=("1280", photo.shape[1]),
        channels=("3", photo.shape[2]),
    )
    shown = (photo, *np.moveaxis(photo, -1, 0))
    return pictures.grid(shown, ("as it is", "red", "green", "blue"), columns=4, size=(13, 2.3))


def show_cifar10(config):
    train, test = config.load("cifar10")
    print(f"train {train['image'].shape}, test {test['image'].shape}")
    _, scale = image.normalize(train["image"])
    print(f"channel means {scale.offset}, standard deviations {scale.unit}")
    if config.data == "book":
        colors = ("red", "green", "blue")
        names = [f"mean of {color}" for color in colors]
        names += [f"std of {color}" for color in colors]
        book = ("0.4915", "0.4823", "0.4468", "0.2470", "0.2435", "0.2616")
        ours = (*scale.offset, *scale.unit)
        # Within 1 %: pixels that were stored as JPEG are not the official ones to the last bit.
        config.figures(
            0.01, **{k: (b, float(v)) for k, b, v in zip(names, book, ours, strict=True)}
        )
    first = [np.argmax(train["label"] == label) for label in range(10)]
    titles = data.cifar.CLASSES if config.data == "book" else range(10)
    return pictures.grid(train["image"][first], titles, columns=5, size=(8, 3.8))


def show_volume(config):
    scan = config.load("book-ct")
    describe("scan [index row column], Hounsfield units", scan.voxels)
    print(f"spacing {scan.spacing} mm, first voxel at {scan.origin} mm (x y z)")
    middle = np.array(scan.voxels.shape) // 2
    place = scan.xyz(middle)
    print(f"voxel {middle} is at {place.round(2)} mm, and back {scan.irc(place).round(2)}")
    if config.data == "book":
        return pictures.planes(scan, middle)
    nodule = data.synthetic.NODULES[1].center  # of the stand-in
    return pictures.planes(scan, scan.irc(nodule).round().astype(int))


def show_table(config):
    wine = config.load("wine-quality")
    describe(f"wines ({', '.join(wine.names)})", wine.values)
    quality, alcohol = wine.values[:, -1], wine["alcohol"]
    standardized, _ = data.standardize(wine.values[:, :-1])
    print(f"one-hot {table.one_hot(quality).shape}, standardized {standardized.shape}")
    groups = {f"class {mark:g}": quality == mark for mark in np.unique(quality)}
    if config.data == "book":
        groups = {
            "bad": quality <= 3,
            "middling": (quality > 3) & (quality < 7),
            "good": quality >= 7,
        }
        sulfur = wine["total sulfur dioxide"]
        found = table.agreement(sulfur < np.float32(141.83), quality > 5)
        book = zip(groups.items(), ("10.34", "10.26", "11.42"), strict=True)
        config.figures(
            rows=("4898", len(wine.values)),
            columns=("12", len(wine.names)),
            bad_wines=("20", groups["bad"].sum()),
            **{
                f"alcohol of {name} wines": (printed, alcohol[mask].mean())
                for (name, mask), printed in book
            },
            threshold=("141.83", sulfur[groups["middling"]].mean()),
            predicted=("2727", found.predicted),
            actual=("3258", found.actual),
            matches=("2018", found.matches),
            precision=("0.740007", found.precision),
            recall=("0.619398", found.recall),
        )
    values = {name: alcohol[mask] for name, mask in groups.items()}
    return pictures.histograms(values, xlabel="alcohol, % by volume", title="Alcohol of wines")


def show_series(config):
    bikes = config.load("bike-sharing")
    daily = series.days(bikes.values)
    print(f"{bikes.values.shape} hours x channels ->")
    print(f"{daily.shape} days x channels x hours, stride {daily.stride()}")
    weather = series.ordinal_one_hot(bikes["weathersit"], low=1, high=4)
    print(f"weather one-hot {weather.shape}: {weather.sum(0).astype(int)} hours of each kind")
    temperature = bikes["temp"]
    unit = data.Scale.unit_range(temperature).apply(temperature)
    z = data.Scale.standard(temperature).apply(temperature)
    print(f"temperature rescaled {unit.min():g} to {unit.max():g};")
    print(f"standardized, its std is {z.std(ddof=1):.4f}")
    (days, channels, _), (of_day, _, of_hour) = daily.shape, daily.stride()
    config.figures(
        hours=("17520", len(bikes.values)), days=("730", days), channels=("17", channels)
    )
    config.figures(stride_of_a_day=("408", of_day), stride_of_an_hour=("17", of_hour))
    counts, working = (
        np.asarray(daily.to_array())[:, bikes.column(name)] for name in ("cnt", "workingday")
    )
    groups = {
        "working days": counts[working[:, 0] == 1],
        "free days": counts[working[:, 0] == 0],
    }
    return pictures.day(
        groups, ylabel="bikes rented", title="A day of bikes: median and middle half"
    )


def show_text(config):
    novel = config.load("pride-and-prejudice")
    codes = text.vocabulary(text.clean_words(novel))
    line = next(line for line in novel.split("\n")[200:] if line).lower().strip()
    letters, numbers = (
        text.one_hot_characters(line, unknown=0),
        text.encode(text.clean_words(line), codes),
    )
    print(f"{len(novel)} characters, {len(codes)} different words; from line 200 on: {line}")
    print(
        f"its characters {letters.shape}, its words {table.one_hot(numbers, len(codes)).shape}"
    )
    vectors = np.random.default_rng(0).normal(size=(len(codes), 8)).astype(np.float32)
    print(f"its words through an embedding of 8 features: {text.embed(vectors, numbers).shape}")
    config.figures(
        different_words=("7261", len(codes)),
        number_of_impossible=("3394", codes.get("impossible", -1)),
    )
    config.figures(
        words_in_the_line=("11", len(numbers)), characters_in_the_line=("70", len(letters))
    )
    return pictures.characters(line, letters)


def show_audio(config):
    samples, rate = config.load("book-audio")
    describe(f"sound [samples channels] at {rate} a second", samples)
    found = audio.spectrogram(samples[:, 0], rate)
    print(
        f"spectrogram [frequency time] {found.power.shape}, to {found.frequencies[-1]:.0f} Hz"
    )
    frequencies, times = found.power.shape
    config.figures(samples=("220500", len(samples)), rate=("44100", rate))
    config.figures(frequencies=("129", frequencies), times=("984", times))
    return pictures.sound(samples[:, 0], rate, found)


def show_video(config):
    frames, fps = config.load("book-video")
    describe(f"video [time height width channels] at {fps:g} a second", frames)
    chosen = np.linspace(0, len(frames) - 1, 8).astype(int)
    return pictures.grid(
        frames[chosen], [f"{i / fps:.1f} s" for i in chosen], columns=4, size=(13, 4.2)
    )


def main(config: Config):
    run = runs.start("ch04_data", config, out=config.out)
    for kind in config.kinds:
        print(f"\n{kind}")
        run.figure(globals()[f"show_{kind}"](config), f"{kind}.png")
