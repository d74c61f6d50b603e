"""The one exception type for problems that the user can mend, and how commands show it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 128 + signal.SIGTERM


class UserError(Exception):
    """A wrong input: a path, a key, a file or a combination of options.

    The message says what was expected, what was found and what to do. Command-line tools print it as one line and
    exit with status 2, without a traceback; everything else that is raised is a defect of the program.
    """


class Stopped(Exception):
    """A signal ended the command, which has saved its work; the message says how to go on.

    Args:
        signum: the signal; the exit status is 128 + signum, as shells have it: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


class Terminated(SystemExit):
    """SIGTERM ends the command: what it was in the middle of writing is removed on the way out, as on Ctrl-C."""


def terminate(signum: int, frame: FrameType | None) -> None:
    """Handle SIGTERM by raising `Terminated`, once: another one must not disturb the tidying up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated(EXIT_TERMINATED)


def shield_pool_worker() -> None:
    """Let a worker of a pool leave Ctrl-C, which reaches all processes of a group, to the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)


def run_command(command: Callable[[], object]) -> None:
    """Run the body of a command-line tool; show a `UserError` as one line and exit with status 2, 130 on Ctrl-C.

    A command that was `Stopped` exits with 128 + the number of the signal, as does one that SIGTERM reaches otherwise.
    """
    previous = signal.getsignal(signal.SIGTERM)
    handled = previous == signal.SIG_DFL and threading.current_thread() is threading.main_thread()
    if handled:
        signal.signal(signal.SIGTERM, terminate)
    try:
        command()
    except UserError as error:
        # A loader worker's error arrives with the worker's traceback around it: the message is what follows the name.
        message = str(error).rpartition("UserError: ")[2].strip()
        sys.exit(_say(f"error: {message}", EXIT_USER_ERROR))
    except Stopped as stopped:
        sys.exit(_say(str(stopped), 128 + stopped.signum))
    except Terminated:
        sys.exit(_say("stopped by SIGTERM", EXIT_TERMINATED))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", EXIT_INTERRUPTED))
    finally:
        if handled:
            signal.signal(signal.SIGTERM, previous)


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"{message}\n")
    return status
