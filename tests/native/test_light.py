"""What every program pays that never touches CUDA: as little as a preloaded library can cost. No time is asserted."""

from __future__ import annotations

import re
import subprocess


def test_no_version_of_the_dynamic_linker_is_looked_up_at_an_exec(native):
    done = subprocess.run(["readelf", "-VW", native.libvgpu], capture_output=True, text=True, check=True)

    files = re.findall(r"File: (\S+)", done.stdout)
    assert files
    assert not [name for name in files if name.startswith("ld-")], files
