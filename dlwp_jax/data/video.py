"""Video: MP4 to frames (extra: needs PyAV)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.files import BrokenFile, needs, reading


def frames(
    path: str | Path, *, step: int = 1, size: tuple[int, int] | None = None
) -> Iterator[np.ndarray]:
    """Iterate over the frames of a video, one in memory at a time.

    Args:
      path: the file.
      step: take every step-th frame, beginning with the first.
      size: `(height, width)` to scale to; None keeps the video's.

    Yields:
      `[height width 3]` uint8, RGB.

    Raises:
      BrokenFile: if the file is damaged or no video, or ends before the last frame that it
        announces (after the frames that could be read).
    """
    with needs():
        import av
        from av.error import FFmpegError

    step = checks.whole(step, "step", 1)
    if size is not None:
        size = checks.wholes(size, "size", 2, 1, 2**14)
    with reading(path, "a video", FFmpegError, ValueError), av.open(str(path)) as container:
        if not container.streams.video:
            raise BrokenFile(f"{path} holds no picture.")
        stream = container.streams.video[0]
        height, width = size or (stream.height, stream.width)
        count = 0
        for frame in container.decode(stream):
            if count % step == 0:
                yield frame.to_ndarray(format="rgb24", width=width, height=height)
            count += 1
        if not count or count < stream.frames:
            raise BrokenFile(f"{path} is truncated: {count} of {stream.frames} frames.")


def read(
    path: str | Path, *, step: int = 1, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, float]:
    """Read a video into one array; a minute of full-size frames is gigabytes, so take `step`
    and `size`.

    Args:
      path: the file.
      step: take every step-th frame.
      size: `(height, width)` to scale to.

    Returns:
      `[time height width 3]` uint8, and the frames per second of what was taken.

    Raises:
      BrokenFile: as `frames`; nothing is returned of a damaged file.
    """
    with needs():
        import av

    taken = np.stack(list(frames(path, step=step, size=size)))
    with av.open(str(path)) as container:
        return taken, float(container.streams.video[0].average_rate or 0) / step
