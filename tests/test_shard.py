"""Training on many devices. The tests are in on_eight_devices.py: how many devices JAX makes of
a CPU is set once.
"""

import subprocess
import sys
from pathlib import Path

from tests.compiling import is_quick_run, quick_environment

TESTS = Path(__file__).with_name("on_eight_devices.py")


def test_on_eight_devices(request):
    """Run those tests in a process of 8 virtual devices, without the slow ones in a run that
    leaves slow tests out; what they say is what this test says.
    """
    marked = "not slow" if is_quick_run(request.config) else ""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", marked, str(TESTS)]
    # A device that waits for the others holds a thread of XLA's pool, which has NPROC of them:
    # too few, and all wait.
    environment = quick_environment() | {"JAX_NUM_CPU_DEVICES": "8", "NPROC": "64"}
    done = subprocess.run(
        command,
        env=environment,
        cwd=TESTS.parents[1],
        capture_output=True,
        text=True,
        timeout=2400,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
