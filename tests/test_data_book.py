"""The book's own figures of chapter 4 (and 7.1.4), on its own files."""

import jax
import numpy as np
import pytest
import torch
from scipy import signal

from dlwp_jax import data, parity
from dlwp_jax.data import audio, image, series, sources, table, text


def test_dog_and_cats(real_book):
    assert data.load("book-dog", root=real_book).shape == (720, 1280, 3)
    cats = data.load("book-cats", root=real_book)
    assert cats.shape == (3, 256, 256, 3)
    z, _ = image.normalize(cats)
    np.testing.assert_allclose(
        z.reshape(-1, 3).mean(0, dtype=float), 0, atol=1e-5
    )  # float32 steps of z near 1
    assert image.channels_first(z).shape == (3, 3, 256, 256)


def test_wine(real_book):
    wine = data.load("wine-quality", root=real_book)
    assert wine.values.shape == (4898, 12)
    quality = wine["quality"]
    bad, good = quality <= 3, quality >= 7
    middle = ~bad & ~good
    assert bad.sum() == 20
    # The first is 10.345 exactly: float32 falls on the side that the book prints.
    means = [f"{wine['alcohol'][side].mean():.2f}" for side in (bad, middle, good)]
    assert means == ["10.34", "10.26", "11.42"]
    sulfur = wine["total sulfur dioxide"]
    threshold = 141.83
    assert round(float(sulfur[middle].mean(dtype=float)), 2) == threshold
    found = table.agreement(sulfur < threshold, quality > 5)
    assert found[:3] == (2727, 3258, 2018)
    np.testing.assert_allclose(found[3:], [0.74000733, 0.61939840], rtol=1e-7)
    scores = table.one_hot(quality, 10)
    assert scores.shape == (4898, 10)
    np.testing.assert_array_equal(scores.argmax(1), quality)


def test_bikes(real_book):
    bikes = data.load("bike-sharing", root=real_book)
    assert bikes.values.shape == (17520, 17)
    columns = table.read_columns(real_book / sources.find("bike-sharing").path)
    times = columns["dteday"].astype("datetime64[h]") + columns["hr"].astype("timedelta64[h]")
    # The book's repaired file still lacks a whole day's length of hours, when hurricane Sandy
    # stopped the bikes: 730
    # rows of 24 hours for 731 days. The hours stay in their columns; one row holds parts of two
    # days.
    missing = series.missing_times(times, (1, "h"))
    np.testing.assert_array_equal(missing, np.datetime64("2012-10-29T13") + np.arange(24))
    assert (bikes["hr"].reshape(730, 24) == np.arange(24)).all()
    series.check_regular(times[: 660 * 24], (1, "h"))
    weather = series.ordinal_one_hot(bikes["weathersit"][:24], low=1, high=4)
    assert weather.shape == (24, 4)
    assert weather[0].tolist() == [1, 0, 0, 0]


def test_bikes_by_day(real_book):
    bikes = data.load("bike-sharing", root=real_book)
    daily = series.days(bikes.values)
    assert daily.shape == (730, 17, 24)
    assert daily.stride() == (408, 1, 17)
    np.testing.assert_array_equal(
        daily.transpose(1, 2).to_array(), bikes.values.reshape(730, 24, 17)
    )


def test_novel(real_book):
    novel = data.load("pride-and-prejudice", root=real_book)
    codes = text.vocabulary(text.clean_words(novel))
    assert len(codes) == 7261
    assert codes["impossible"] == 3394
    line = novel.split("\n")[200]
    assert line == "“Impossible, Mr. Bennet, impossible, when I am not acquainted with him"
    words = text.clean_words(line)
    assert len(words) == 11
    assert table.one_hot(text.encode(words, codes), len(codes)).shape == (11, 7261)
    letters = text.one_hot_characters(line.lower().strip(), unknown=0)
    assert letters.shape == (70, 128)
    assert (
        len(text.vocabulary(text.clean_words(novel.removeprefix("\ufeff")))) == 7260
    )  # one word is "\ufeffthe"


def test_bird(real_book):
    samples, rate = data.load("book-audio", root=real_book)
    assert (samples.shape, samples.dtype, rate) == ((220500, 1), np.int16, 44100)
    ours = audio.spectrogram(samples[:, 0], rate)
    f, t, power = signal.spectrogram(samples[:, 0].astype(np.float64), rate)
    assert ours.power.shape == power.shape == (129, 984)
    # float32 against float64: relative to the loudest value.
    np.testing.assert_allclose(ours.power, power, rtol=1e-3, atol=1e-6 * power.max())
    np.testing.assert_allclose(ours.frequencies, f, rtol=1e-6)
    np.testing.assert_allclose(ours.times, t, rtol=1e-6)


def test_cockatoo(real_book):
    taken, fps = data.load("book-video", root=real_book)
    assert taken.shape == (28, 180, 320, 3)
    assert fps == 2.0
    first = next(data.video.frames(real_book / sources.find("book-video").path))
    assert first.shape == (720, 1280, 3)


def test_chest(real_book):
    scan = data.load("book-ct", root=real_book)
    assert scan.voxels.shape == (24, 512, 512)
    assert scan.spacing[2] == 3.0
    assert -1100 < np.percentile(scan.voxels, 1) < -900  # air
    # The whole scan again by SimpleITK, which sorts by position too.
    import SimpleITK

    folder = str(real_book / sources.find("book-ct").path)
    reference = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(folder))
    np.testing.assert_array_equal(scan.voxels, SimpleITK.GetArrayFromImage(reference))
    np.testing.assert_allclose(scan.origin, reference.GetOrigin(), rtol=1e-9)
    np.testing.assert_allclose(scan.spacing, reference.GetSpacing(), rtol=1e-9)


def test_annotations(real_book):
    nodules = data.load("luna-annotations", root=real_book)
    assert len(nodules["diameter_mm"]) == 1186
    train, val = data.split(
        nodules, val=0.1, key=jax.random.key(0), groups=nodules["seriesuid"]
    )
    assert not set(train["seriesuid"]) & set(val["seriesuid"])


@pytest.mark.slow
def test_cifar10(real_cifar):
    train, test = data.load("cifar10", root=real_cifar)
    assert train["image"].shape == (50_000, 32, 32, 3)
    assert test["image"].shape == (10_000, 32, 32, 3)
    assert np.bincount(train["label"]).tolist() == [5000] * 10
    _, scale = image.normalize(train["image"])
    # Stored as JPEG here, which moves the means by 0.0003 and smooths a little.
    np.testing.assert_allclose(scale.offset, [0.4915, 0.4823, 0.4468], atol=0.001)
    np.testing.assert_allclose(scale.unit, [0.2470, 0.2435, 0.2616], atol=0.003)
    birds, _ = data.cifar.read(real_cifar / "cifar-10-batches-py", classes=("airplane", "bird"))
    assert np.bincount(birds["label"]).tolist() == [5000, 5000]


def test_the_points_of_chapter_3(shared_data):
    folder = shared_data / "book" / "p1ch3"
    if not folder.exists():
        pytest.skip(f"the book's points are not at {folder}")
    torch_points = torch.load(folder / "ourpoints.t", weights_only=True)
    assert torch.equal(parity.read(folder / "ourpoints.t"), torch_points)
    pytest.importorskip("h5py")
    coords = data.hdf5.read(folder / "ourpoints.hdf5")["coords"]
    np.testing.assert_array_equal(coords, torch_points)
    assert coords.dtype == np.float32
    with pytest.raises(data.BrokenFile, match=r"ourpoints\.t cannot be read as an HDF5 file"):
        data.hdf5.read(folder / "ourpoints.t")
    with pytest.raises(ValueError, match="no data set 'points'; there are coords"):
        data.hdf5.read(folder / "ourpoints.hdf5", "points")
