"""Logging to the console, in colour where it is one, and to `log.txt`."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from pathlib import Path
from typing import TextIO

from termcolor import colored

from fastreid.utils import run_files
from fastreid.utils.errors import UserError
from fastreid.utils.processes import process_rank

COLORS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class ConsoleFormatter(logging.Formatter):
    """Time and message; the level too where it is a warning or worse, and the process where it is not the first."""

    def __init__(self, colour: bool, rank: int = 0):
        super().__init__(datefmt="%m/%d %H:%M:%S")
        self.colour, self.rank = colour, rank

    def format(self, record: logging.LogRecord) -> str:
        process = f" process {self.rank}" if self.rank else ""
        head = f"[{self.formatTime(record, self.datefmt)}{process}]"
        level = "" if record.levelno < logging.WARNING else f"{record.levelname}: "
        if self.colour:
            head = colored(head, "green", force_color=True)
            level = level and colored(level, COLORS[record.levelno], force_color=True)
        message = f"{head} {level}{record.getMessage()}"
        return f"{message}\n{self.formatException(record.exc_info)}" if record.exc_info else message


def show_any_name(stream: TextIO) -> None:
    """Let a console show names that it cannot encode, as they are not UTF-8 or not its letters, with escapes."""
    if isinstance(stream, io.TextIOWrapper):  # not one that a test or a notebook put in its place
        stream.reconfigure(errors="backslashreplace")


class LogFile(logging.FileHandler):
    """`log.txt`, without which the command goes on when it cannot be written any more."""

    failed = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.failed:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            stream, self.stream = self.stream, None
            with contextlib.suppress(OSError):  # here, or it would try again, and complain, when it is thrown away
                stream.close()
            sys.stderr.write(f"cannot write {self.baseFilename} ({error.strerror}): the log goes on here alone\n")


def setup_logger(folder: Path | None = None) -> None:
    """Send this package's log to the console and, from now on, to `<folder>/log.txt` too.

    Of several processes the first one does so; the others send warnings to the console.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    logger = logging.getLogger("fastreid")
    rank = process_rank()
    logger.setLevel(logging.WARNING if rank else logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        show_any_name(sys.stdout)
        console = logging.StreamHandler(sys.stdout)
        console.setFormatter(ConsoleFormatter(sys.stdout.isatty(), rank))
        logger.addHandler(console)
    if folder is None or rank:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = LogFile(folder / run_files.LOG, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(
            f"cannot write to the output folder {folder} ({error.strerror}): choose another OUTPUT_DIR"
        ) from error
    file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s"))
    logger.addHandler(file)
