"""Workers of a loader that cannot hand over their batches."""

import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fastreid.data.stream import SharedCollate, worker_errors
from fastreid.utils.errors import UserError


class Numbers(Dataset):
    """Items by number; something happens when one is read."""

    def __init__(self, event=lambda: None):
        self.event = event

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.event()
        return index


def batch_of(items):
    return {"images": torch.tensor(items), "img_paths": [str(item) for item in items]}


def loader(workers, dataset=None, **options):
    options |= {"multiprocessing_context": "fork"} if workers else {}
    return DataLoader(
        dataset or Numbers(), batch_size=2, num_workers=workers, collate_fn=SharedCollate(batch_of), **options
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_workers_lie_in_shared_memory(workers):
    with worker_errors():
        batches = list(loader(workers))
    assert torch.equal(torch.cat([batch["images"] for batch in batches]), torch.arange(4))
    assert [batch["images"].is_shared() for batch in batches] == [bool(workers)] * 2
    assert batches[1]["img_paths"] == ["2", "3"]


def test_a_worker_without_shared_memory_says_so(monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>:\n No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with (
        pytest.raises(UserError, match=r"--shm-size=8g.*NUM_WORKERS 0 \(unable to .*: No space left on device"),
        worker_errors(),
    ):
        list(loader(1))
    assert len(list(loader(0))) == 2  # which needs none


# PyTorch may hear of the worker's end from its closed connection first, and by the signal when the iterator is deleted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "sent, advice",
    [(signal.SIGBUS, "--shm-size"), (signal.SIGKILL, "killed it as memory ran out")],
    ids=["bus error", "kill"],
)
def test_a_worker_that_is_killed_is_named_with_the_mend(sent, advice):
    with pytest.raises(UserError) as caught, worker_errors():
        list(loader(1, Numbers(lambda: os.kill(os.getpid(), sent))))
    assert "DataLoader worker (pid" in str(caught.value) and advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loader_that_gives_nothing_is_given_up():
    with pytest.raises(UserError, match="no batch came"), worker_errors():
        list(loader(1, Numbers(lambda: time.sleep(0.5)), timeout=0.1))


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="shapes differ"), worker_errors():
        raise RuntimeError("shapes differ")
