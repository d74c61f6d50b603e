"""All random states in a checkpoint."""

import random

import numpy as np
import pytest
import torch

from fastreid.utils import random_states
from fastreid.utils.random_states import RandomStates


def draw():
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()]


@pytest.fixture
def states():
    return RandomStates(torch.device("cpu"), seed=5)


def test_every_generator_goes_on_where_it_was(states, tmp_path):
    draw()  # leaves half of a pair of normal numbers in two of them
    torch.save(states.state_dict(), tmp_path / "states.pth")
    expected = draw(), draw()
    states.load_state_dict(torch.load(tmp_path / "states.pth", weights_only=True))
    assert (draw(), draw()) == expected


def test_each_process_finds_its_own(states, monkeypatch):
    saved = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        saved.append((states.own_state(), draw()))
    for rank in (1, 0):
        monkeypatch.setattr(random_states, "process_rank", lambda: rank)
        states.load_state_dict([state for state, _ in saved])
        assert draw() == saved[rank][1]


def test_a_process_more_than_before_is_seeded_anew_and_says_so(states, monkeypatch, caplog):
    monkeypatch.setattr(random_states.logger, "propagate", True)
    monkeypatch.setattr(random_states.logger.parent.parent, "propagate", True)
    drawn = []
    for rank in (1, 2, 1):
        monkeypatch.setattr(random_states, "process_rank", lambda: rank)
        states.load_state_dict([states.own_state()])
        drawn.append(draw())
    assert drawn[0] == drawn[2] != drawn[1]
    assert (
        "process 1: the checkpoint is of a run in 1 process(es), random numbers start from the seed here" in caplog.text
    )
