"""Python commands as children of a process that has loaded PyTorch: each starts in moments, not seconds.

`serving(SOCKET)` serves while it lasts; `write_python(PATH, SOCKET)` writes what stands in for Python: by `run` it
hands its words, folder, environment and output over, passes SIGTERM and Ctrl-C on, and exits with the command's status.
`start` is for tests that want the command's process, in a group of its own, or limits on what it can have.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 900  # seconds that a test waits for a command: more than it takes beside any other work


def write_python(path, address):
    """Write an executable that takes the words that Python takes: a script, or -m and a module, and its arguments."""
    lines = ("import sys", f"sys.path.insert(0, {str(Path(__file__).parent)!r})", "from command_server import run")
    path.write_text("\n".join((f"#!{sys.executable} -SE", *lines, f"run({address!r}, sys.argv[1:])\n")))
    path.chmod(0o755)
    return path


@contextmanager
def serving(address, **options):
    """Serve in a process of its own, with options of `subprocess.Popen`."""
    import subprocess  # which no client needs

    server = subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.DEVNULL, **options)
    try:
        deadline = time.monotonic() + PATIENCE
        while not Path(address).exists():
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        server.kill()
        server.wait()


def start(address, outputs, timeout=None, **request):
    """Let the server run a command: arguments of `command`. Return its process id and a file with its status, a line.

    Raises:
        TimeoutError: when the file is read, if the command has not ended `timeout` seconds later.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    connection.connect(address)
    socket.send_fds(connection, [json.dumps(request).encode()], outputs)
    answers = connection.makefile()
    return int(answers.readline()), answers


def run(address, words):
    """Let the server run a script and its arguments, with this process's folder, environment and output."""
    pid, status = start(address, [1, 2], words=words, folder=os.getcwd(), environment=dict(os.environ))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    sys.exit(int(status.readline()))


def serve(address):
    """Answer requests for ever, each by a process that waits for its command."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        data, outputs, _, _ = socket.recv_fds(connection, 2**20, 2)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            pid = os.fork()
            if pid == 0:
                command(outputs, **json.loads(data))
            connection.sendall(b"%d\n" % pid)
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os._exit(0)
        connection.close()
        for output in outputs:
            os.close(output)


def shrink_shared_memory(size):
    """Give this process, which must be root's, a small /dev/shm of its own."""
    import ctypes
    import subprocess

    new_mounts = 0x00020000  # CLONE_NEWNS
    if ctypes.CDLL(None, use_errno=True).unshare(new_mounts) != 0:
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"], check=True)


def without_pictures(replace=setattr):
    """Write empty files in place of a run's pictures, which take longer than the run and have tests of their own."""
    from fastreid.engine import defaults
    from fastreid.evaluation import results

    replace(defaults, "plot_result", lambda metrics, output: output.touch())
    replace(results, "plot_cmc", lambda path, curves: path.touch())


def command(outputs, words, folder, environment, file_limit=None, shared_memory=None, patience=None, fork=False):
    """Become the command, which draws no pictures if its environment has WITHOUT_PICTURES.

    Args:
        file_limit: the most bytes of a file. shared_memory: those of /dev/shm. patience: the seconds that a stop waits
            for a batch. fork: make the processes of a run by forks, which have all modules loaded, and not as users do.
    """
    import multiprocessing
    import resource

    import torch  # which the server has loaded

    from fastreid.engine import stopping

    os.setsid()
    for output, number in zip(outputs, (1, 2)):
        os.dup2(output, number)
    # Those of the server know what kind of file they were opened on.
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.environ.pop("OMP_NUM_THREADS", None)  # which is the server's
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server in the background of a shell ignores Ctrl-C
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    if shared_memory:
        shrink_shared_memory(shared_memory)
    if patience:
        stopping.PATIENCE = patience
    if fork:
        context = multiprocessing.get_context("fork")
        multiprocessing.get_context = lambda method=None: context
    if "WITHOUT_PICTURES" in environment:
        without_pictures()
    sys.path[1:1] = environment.get("PYTHONPATH", "").split(os.pathsep)
    if words[0] == "-u":  # so torchrun starts its processes
        words = words[1:]
    sys.path[0] = folder if words[0] == "-m" else str(Path(words[0]).resolve().parent)
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            raise
        leave(stop.code or 0)
    leave(0)


def leave(status):
    """End as the interpreter does, but leave the modules: to take those of the server apart copies all its memory."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    # What takes the time.
    import seaborn  # noqa: F401
    import torch._dynamo  # noqa: F401, which optimizers load
    import torchvision  # noqa: F401
    from short_mobilenet import STAGES

    import fastreid.engine.defaults  # noqa: F401
    from fastreid.modeling.backbones import mobilenet_v2

    mobilenet_v2.STAGES = STAGES
    gc.freeze()  # a collection in a command would copy what it looks at
    serve(sys.argv[1])
