"""The one exception type for problems that the user can mend, and how commands show it."""

from __future__ import annotations

import sys
from typing import Callable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


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


def run_command(command: Callable[[], object]) -> None:
    """Run the body of a command-line tool; show a `UserError` as one line and exit with status 2, 130 on Ctrl-C.

    A command that was `Stopped` exits with 128 + the number of the signal.
    """
    try:
        command()
    except UserError as error:
        # A loader worker's error arrives with the worker's traceback around it: the message is what follows the name.
        message = str(error).rpartition("UserError: ")[2].strip()
        sys.exit(_say(f"error: {message}", EXIT_USER_ERROR))
    except Stopped as stopped:
        sys.exit(_say(str(stopped), 128 + stopped.signum))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", EXIT_INTERRUPTED))


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"{message}\n")
    return status
