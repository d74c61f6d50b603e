"""Start the training command in children of a process that has loaded PyTorch: a start takes moments, not seconds.

Each line of the input is a request, {"start": {...}} or {"wait": pid, "timeout": seconds}; each line of the output the
answer, a process id or an exit status (negative: the signal that killed it; null: it still runs).
"""

import ctypes
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import time

import fastreid.engine.defaults  # noqa: F401  what takes the time
from fastreid.engine import stopping

CLONE_NEWNS = 0x00020000


def shrink_shared_memory(size):
    """Give this process, which must be root's, a small /dev/shm of its own."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"], check=True)


def start(tool, words, folder, output, environment, file_limit, shared_memory, patience):
    """Fork a process that becomes the command, in a group of its own, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.chdir(folder)
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        os.dup2(os.open(path, flags), descriptor)
    os.dup2(1, 2)
    os.environ.update(environment)
    # As in a shell's foreground, whatever the tests were started from.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    if shared_memory:
        shrink_shared_memory(shared_memory)
    if patience:
        stopping.PATIENCE = patience
    sys.argv = [tool, *words]
    runpy.run_path(tool, run_name="__main__")
    sys.exit(0)


def wait(pid, timeout):
    """Return the exit status of a process, None if it still runs after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(**request["start"]) if "start" in request else wait(request["wait"], request["timeout"])
        print(json.dumps(answer), flush=True)
