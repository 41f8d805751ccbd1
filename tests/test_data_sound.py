import struct
import wave

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import signal
from scipy.io import wavfile

from dlwp_jax.data import BrokenFile, audio, synthetic, video

RNG = np.random.default_rng(0)


@given(
    st.sampled_from([np.uint8, np.int16, np.int32, np.float32, np.float64]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            st.tuples(st.integers(1, 9), st.integers(1, 3)),
            elements=st.floats(-1, 1, width=32) if np.issubdtype(dtype, np.floating) else None,
        )
    )
)
def test_wav_round_trips(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("wav") / "x.wav"
    wavfile.write(path, 8000, samples)
    read, rate = audio.read(path)
    assert rate == 8000
    assert read.dtype == samples.dtype
    np.testing.assert_array_equal(read, samples)


def test_24_bits_by_pythons_own_writer(tmp_path):
    values = np.array([[0, -1], [2**23 - 1, -(2**23)]])
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(3)
        file.setframerate(96000)
        file.writeframes(
            b"".join(int(v).to_bytes(3, "little", signed=True) for v in values.ravel())
        )
    samples, rate = audio.read(tmp_path / "x.wav")
    assert (samples.dtype, rate) == (np.int32, 96000)
    np.testing.assert_array_equal(samples >> 8, values)
    np.testing.assert_allclose(
        audio.to_float(samples), values / 2**23, rtol=1e-7
    )  # one float32 rounding


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_full_scale_is_one(dtype):
    limits = np.array([np.iinfo(dtype).min, 0, np.iinfo(dtype).max], dtype)
    np.testing.assert_allclose(
        audio.to_float(limits), [-1, 0, 1], atol=2.0**-15
    )  # the top is one step below 1
    with pytest.raises(TypeError, match="int64"):
        audio.to_float(np.zeros(3, np.int64))


def test_empty_and_other_files_are_refused(tmp_path):
    path = tmp_path / "x.wav"
    wavfile.write(path, 8000, np.zeros((0, 1), np.int16))
    with pytest.raises(BrokenFile, match="0 samples"):
        audio.read(path)
    path.write_bytes(b"OggS" + bytes(100))
    with pytest.raises(BrokenFile, match="RIFF"):
        audio.read(path)
    with pytest.raises(FileNotFoundError):
        audio.read(tmp_path / "absent.wav")


def wav_bytes(samples, *, riff=None, size=None, before=b""):
    """A WAV file of 16 bits in stereo, with the sizes that it is given and a chunk before the
    samples.
    """
    raw = samples.astype("<i2").tobytes()
    layout = struct.pack("<HHIIHH", 1, 2, 8000, 32000, 4, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + before
    body += b"data" + struct.pack("<I", len(raw) if size is None else size) + raw
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


@pytest.mark.parametrize(
    "options",
    [
        {"riff": 0, "size": 0},
        {"riff": 0xFFFFFFFF, "size": 0xFFFFFFFF},
        {"riff": 0x7FFFF024, "size": 0x7FFFF000},
        {"riff": 36, "size": 0},
        {"size": 0xFFFFFFFF},
        {"riff": 0},
        {"before": b"LIST\x03\0\0\0abc"},  # odd, without its padding
        {"before": b"LIST\x03\0\0\0abc\0"},
        {"before": b"LIST\x03\0\0\0abc", "riff": 0xFFFFFFFF, "size": 0xFFFFFFFF},
    ],
)
@pytest.mark.parametrize("extra", [b"", b"\x01"])
def test_files_from_a_pipe_are_read_to_their_end(tmp_path, options, extra):
    samples = RNG.integers(-50, 50, (30, 2)).astype(np.int16)
    path = tmp_path / "pipe.wav"
    path.write_bytes(wav_bytes(samples, **options) + extra)  # a part of a frame is not read
    read, rate = audio.read(path)
    assert rate == 8000
    np.testing.assert_array_equal(read, samples)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (wav_bytes(np.ones((4, 2)))[:-3], "truncated: 57 of 60 bytes"),
        (wav_bytes(np.ones((4, 2)), size=40), "samples need 40 bytes, 16 are there"),
        (wav_bytes(np.ones((0, 2)), riff=0, size=0), "0 samples|no samples"),
        (b"RIFF\x04\0\0\0WAVE", "it has no samples"),
        (wav_bytes(np.ones((4, 2)))[:12] + bytes(60), "it has no samples"),
        (b"RIFF\x0c\0\0\0WAVEdata\0\0\0\0", "does not say how"),
        (
            b"RF64" + wav_bytes(np.ones((4, 2)))[4:],
            "RF64, the WAV of more than 4 GB is not read",
        ),
        (b"fLaC" + bytes(99), "FLAC is not read"),
        (wav_bytes(np.ones((4, 2))).replace(b"\x01\0\x02\0", b"\x07\0\x02\0"), "MULAW"),
    ],
)
def test_sound_that_is_not_read_is_named(tmp_path, content, message):
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(BrokenFile, match=message):
        audio.read(path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nperseg": 64, "noverlap": 32},
        {"nperseg": 100, "window": "hann"},
        {"nperseg": 33, "noverlap": 0},
        {"nperseg": 1000},
    ],
)
@pytest.mark.parametrize("shape", [(2, 1000)])
def test_spectrogram_equals_scipys(options, shape):
    x = RNG.normal(size=shape).astype(np.float32) + 3
    f, t, power = signal.spectrogram(
        x.astype(np.float64), 8000.0, **{"window": ("tukey", 0.25), **options}
    )
    for form in (
        audio.spectrogram,
        jax.jit(audio.spectrogram, static_argnums=1, static_argnames=options),
    ):
        ours = form(x, 8000.0, **options)
        np.testing.assert_allclose(ours.frequencies, f, rtol=1e-6)
        np.testing.assert_allclose(ours.times, t, rtol=1e-6)
        # float32 against float64: the error of an FFT is relative to its largest value, not to
        # each.
        np.testing.assert_allclose(ours.power, power, rtol=1e-4, atol=1e-5 * power.max())


def test_spectrogram_of_integers_and_its_gradient():
    samples, rate = synthetic.chirp(0.1)
    _, _, power = signal.spectrogram(samples[:, 0].astype(np.float64), rate)
    ours = audio.spectrogram(samples[:, 0], rate).power
    np.testing.assert_allclose(ours, power, rtol=1e-3, atol=1e-5 * power.max())
    gradient = jax.grad(lambda x: jnp.sum(audio.spectrogram(x, 8000.0).power))(
        RNG.normal(size=600).astype(np.float32)
    )
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_chirp_peaks_where_it_should():
    samples, rate = synthetic.chirp()
    f, t, power = audio.spectrogram(samples[:, 0], rate)
    loudest = np.asarray(f)[np.asarray(power).argmax(0)]
    np.testing.assert_allclose(
        loudest, 500 + 7500 * t / 2, atol=2 * rate / 256
    )  # two columns of the spectrogram


@pytest.mark.parametrize("options", [{"nperseg": 2000}, {"noverlap": 256}, {"nperseg": 0}])
def test_impossible_segments_are_refused(options):
    with pytest.raises(ValueError, match="nperseg"):
        audio.spectrogram(np.zeros(1000), 8000, **options)
    with pytest.raises(ValueError, match="nperseg="):
        audio.spectrogram(np.float32(1), 8000)


# --- video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    frames, fps = synthetic.disc_video(12, 48, 64)
    path = tmp_path_factory.mktemp("video") / "disc.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=int(fps))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            64,
            48,
            "yuv420p",
            4_000_000,
        )
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path, frames


def test_frames_come_back_nearly(clip):
    path, frames = clip
    read, fps = video.read(path)
    assert (read.shape, read.dtype, fps) == (frames.shape, np.uint8, 20.0)
    # Lossy, with colour at half resolution: the mean error is small, single pixels at the
    # disc's edge are not.
    assert np.abs(read.astype(int) - frames).mean() < 6
    np.testing.assert_array_equal(video.read(path, step=5)[0], read[::5])
    assert video.read(path, step=5, size=(24, 32))[0].shape == (3, 24, 32, 3)
    assert video.read(path, step=5)[1] == 4.0


def test_broken_videos_are_refused(clip, tmp_path):
    path, _ = clip
    content = path.read_bytes()
    for name, broken in {
        "short": content[:-200],
        "half": content[: len(content) // 2],
        "none": b"",
        "text": b"no" * 99,
    }.items():
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(BrokenFile, match=name):
            video.read(tmp_path / name)
    wavfile.write(tmp_path / "sound.wav", 8000, np.zeros(80, np.int16))
    with pytest.raises(BrokenFile, match="no picture"):
        video.read(tmp_path / "sound.wav")
    with pytest.raises(FileNotFoundError):
        video.read(tmp_path / "absent.mp4")
    with pytest.raises(ValueError, match="step must be at least 1"):
        video.read(path, step=0)


@pytest.mark.parametrize("rate", [0, -8000])
def test_a_rate_that_is_not_positive_is_refused(rate):
    with pytest.raises(ValueError, match="rate must be a finite number above 0"):
        audio.spectrogram(np.zeros(512, np.float32), rate)
