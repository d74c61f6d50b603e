"""Signals that ask a run to stop."""

import os
import signal
import threading
import time

import pytest

from fastreid.engine import stopping
from fastreid.engine.stopping import StopRequested, StopSignals


@pytest.fixture
def outer():
    """Signals that reach the handlers of before."""
    received = []
    before = {
        s: signal.signal(s, lambda signum, frame: received.append(signum)) for s in (signal.SIGINT, signal.SIGTERM)
    }
    yield received
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_the_iteration_and_the_second_does_not(outer, sent, capfd):
    with StopSignals() as signals:
        signals.check(0)
        os.kill(os.getpid(), sent)
        assert f"{sent.name}: stopping after this iteration" in capfd.readouterr().err
        # A signal to a whole group also comes by way of whoever started this process.
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer == []
        signals.received_at -= 10
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer == [signal.SIGTERM]
        with pytest.raises(StopRequested) as stop:
            signals.check(1)
    assert stop.value.signum == sent


def test_handlers_are_given_back(outer):
    handler = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_test_of_the_model_is_cut_short(outer):
    with StopSignals() as signals, pytest.raises(StopRequested):
        with signals.interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on")
    with pytest.raises(StopRequested):
        with signals.interruptible():
            pytest.fail("began")


def test_a_stop_does_not_wait_for_a_batch_for_ever(outer, monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE", 0.01)
    with StopSignals() as signals:
        with pytest.raises(StopRequested) as stop, signals.waiting():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        assert stop.value.midway and stop.value.signum == signal.SIGTERM
        with pytest.raises(StopRequested), signals.waiting():  # the next one neither
            time.sleep(10)
        with signals.waiting():
            pass
        time.sleep(0.03)  # what comes after a batch takes as long as it takes
        with pytest.raises(StopRequested) as stop:
            signals.check(1)
        assert not stop.value.midway


def test_a_batch_may_take_as_long_as_it_likes_without_a_signal(outer, monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE", 0.01)
    with StopSignals() as signals, signals.waiting():
        time.sleep(0.03)


def test_an_ignored_signal_stays_ignored(outer):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        signals.check(0)


def test_another_thread_leaves_signals_alone(outer):
    handler, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with StopSignals() as signals:
            signals.check(0)
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [handler]


def test_several_processes_stop_after_the_same_iteration(monkeypatch):
    """The one without a signal, too; they ask each other every tenth iteration."""
    asked = []
    monkeypatch.setattr("fastreid.engine.stopping.num_processes", lambda: 2)
    monkeypatch.setattr("fastreid.engine.stopping.any_process", lambda flag: asked.append(flag) or True)
    signals = StopSignals()
    for iteration in range(9):
        signals.check(iteration)
    with pytest.raises(StopRequested) as stop:
        signals.check(9)
    assert asked == [False] and stop.value.signum == signal.SIGTERM


def test_one_of_several_processes_takes_a_signal_that_comes_twice_for_one(outer, monkeypatch):
    """A batch system signals all processes of a job, and the one that started them passes the signal on as well."""
    monkeypatch.setattr(stopping, "num_processes", lambda: 2)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer == [] and signals.received == signal.SIGTERM
        monkeypatch.setattr(stopping, "ECHO_SECONDS", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer == [signal.SIGTERM]
