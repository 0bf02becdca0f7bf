"""
Tests for L{sockapps.descriptors}: in processes of their own, whose limits are theirs.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from sockapps.descriptors import OTHERS

PROGRAM = """
import resource
from sockapps.descriptors import makeRoom
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(makeRoom({connections}, {reserved}), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "possible", "after"),
    [
        (256, 4096, 1000, 1000, 1000 + 32 + OTHERS),
        (256, 300, 1000, 300 - 32 - OTHERS, 300),
        (4096, 4096, 1000, 1000, 4096),
        (256, 512, 0, 512 - 32 - OTHERS, 512),
        (64, 64, 1000, 1, 64),
    ],
    ids=["raised", "as far as allowed", "enough", "as many as there can be", "hardly any"],
)
def test_the_limit_of_open_files_is_raised_as_far_as_is_needed_and_allowed(
    soft: int, hard: int, connections: int, possible: int, after: int
) -> None:
    program = PROGRAM.format(soft=soft, hard=hard, connections=connections, reserved=32)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == [str(possible), str(after), str(hard)]
