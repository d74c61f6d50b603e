"""Reuse of freed memory, and what is measured."""

import subprocess
import sys

import torch

from fastreid.utils.memory import peak_memory_mb

FAULTS = """
import resource, sys, torch
from fastreid.utils.memory import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory()
def work():
    return (torch.ones(2**24) * 2).sum()
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(choice):
    out = subprocess.run([sys.executable, "-c", FAULTS, choice], capture_output=True, text=True, check=True).stdout
    return out.split()


def test_large_tensors_are_had_without_new_pages():
    kept, faults = page_faults("keep")
    _, usual = page_faults("usual")
    assert kept == "False" or int(faults) * 4 < int(usual)


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_mb()
    held = torch.ones(2**26)  # 256 MB
    assert peak_memory_mb(torch.device("cpu")) >= max(before, held.nbytes / 2**20)
