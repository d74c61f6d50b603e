"""Reuse of freed memory, and what is measured."""

import subprocess

FAULTS = """
import resource, torch
from fastreid.utils.memory import keep_freed_memory

def faults():
    def work():
        return (torch.ones(2**23) * 2).sum()  # 32 MB, more than glibc keeps by itself
    for _ in range(5):
        work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
print(keep_freed_memory(), faults(), usual)
"""


def run(python, path, code):
    """What code prints, in words. In a process of its own: this one may have held more before."""
    path.write_text(code)
    return subprocess.run([python, path], capture_output=True, text=True, check=True).stdout.split()


def test_large_tensors_are_had_without_new_pages(python, tmp_path):
    kept, faults, usual = run(python, tmp_path / "faults.py", FAULTS)
    assert kept == "False" or int(faults) * 4 < int(usual)


GROWTH = """
import torch
from fastreid.utils.memory import peak_memory_mb

before = peak_memory_mb(torch.device("cpu"))
held = torch.ones(2**26)  # 256 MB, 2**20 bytes each
largest = peak_memory_mb()
del held
print(largest - before, peak_memory_mb() - before)
"""


def test_peak_memory_grows_by_what_is_held_and_stays(python, tmp_path):
    largest, later = map(float, run(python, tmp_path / "growth.py", GROWTH))
    assert 250 < largest < 300 and 250 < later < 300  # Linux counts in portions, a few of which it may be behind
