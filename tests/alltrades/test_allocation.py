"""Memory that a training frees stays with the process until it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
CODE = """
import json, resource
import torch
from alltrades.system.allocation import freed_memory_kept

def step():
    return [torch.full((5_000_000,), 1.0) for _ in range(6)]  # six pieces of 20 MB

def cleared(steps=10):
    step(), step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / steps

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

found = {}
with freed_memory_kept():
    found["with"] = cleared()
    found["kept"] = resident()
found["afterwards"] = resident()
print(json.dumps(found))
"""


@pytest.mark.skipif(
    not HUGE.exists() or "[always]" in HUGE.read_text(),
    reason="pages are counted where they are of 4 kB, on Linux",
)
def test_pieces_are_not_cleared_again_and_go_back_at_the_end():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    piece = 5_000_000 * 4 / 4096  # pages
    assert found["with"] < piece / 10
    assert found["kept"] - found["afterwards"] > 5 * piece
