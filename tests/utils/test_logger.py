"""The log on the console and in a file."""

import logging
from pathlib import Path

from fastreid.utils.logger import LogFile


def test_a_full_disk_costs_the_log_file_alone(capsys):
    logger, full = logging.getLogger("fastreid.test"), LogFile(Path("/dev/full"))
    logger.addHandler(full)
    try:
        logger.warning("first")
        logger.warning("second")
    finally:
        logger.removeHandler(full)
    err = capsys.readouterr().err
    assert err.count("cannot write /dev/full (No space left on device): the log goes on here alone") == 1
    assert "Traceback" not in err


def test_a_defect_of_a_message_is_still_shown(tmp_path, capsys):
    file = LogFile(tmp_path / "log.txt")
    file.handle(logging.LogRecord("fastreid", logging.WARNING, __file__, 1, "%d", ("no number",), None))
    file.close()
    assert "no number" in capsys.readouterr().err
