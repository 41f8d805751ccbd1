"""Pictures for the site: runs every experiment whose pictures are absent or out of date.

They are written into runs/site. That takes three to five minutes the first time, then nothing.
With --readme it also makes the README's picture, docs/assets/cures.png, from the pictures of
ch05_overfitting.
"""

import io
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = ROOT / "runs" / "site"
README = ROOT / "docs" / "assets" / "cures.png"
HELPERS = ("_drawing", "book", "models", "pictures")


def main() -> None:
    folder = ROOT / "experiments"
    helpers = max((folder / f"{name}.py").stat().st_mtime for name in HELPERS)
    for source in sorted(folder.glob("ch*.py")):
        made = OUT / source.stem / ".made"
        written = max(source.stat().st_mtime, helpers)
        if not made.exists() or made.stat().st_mtime < written:
            draw(source.stem)
            made.touch()
    if "--readme" in sys.argv:
        shrink(OUT / "ch05_overfitting" / "cures.png", README)


def draw(name: str) -> None:
    print(f"running {name} for its pictures ...", flush=True)
    command = [sys.executable, "-P", "-m", "experiments", name, "--out", str(OUT)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("DLWP_DATA", None)  # so that the embedded data is taken
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")


def shrink(picture: Path, to: Path) -> None:
    """Write a PNG of 128 colours that is at most 1200 pixels wide."""
    from PIL import Image

    with Image.open(picture) as image:
        image = image.convert("RGB")
        image.thumbnail((1200, 1200))
        image = image.quantize(128, dither=Image.Dither.NONE)
        content = io.BytesIO()
        image.save(content, "png", optimize=True)
    to.write_bytes(content.getvalue())
    print(f"wrote {to.relative_to(ROOT)}, {to.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
