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


def run_command(command: Callable[[], object]) -> None:
    """Run the body of a command-line tool; show a `UserError` as one line and exit with status 2, 130 on Ctrl-C."""
    try:
        command()
    except UserError as error:
        # A loader worker's error arrives with the worker's traceback around it: the message is what follows the name.
        message = str(error).rpartition("UserError: ")[2].strip()
        sys.exit(_say(f"error: {message}", EXIT_USER_ERROR))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", EXIT_INTERRUPTED))


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"{message}\n")
    return status
