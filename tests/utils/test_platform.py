"""Where the program runs."""

import subprocess
import sys


def test_windows_is_told_what_to_do_in_one_line():
    code = "import sys; sys.platform = 'win32'; import fastreid"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "WSL" in done.stderr
