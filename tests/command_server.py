"""Python commands as children of a process that has loaded PyTorch: each starts in moments, not seconds.

`serving(SOCKET)` serves while it lasts; `write_python(PATH, SOCKET)` writes what stands in for Python: by `run` it
hands its words, folder, environment and output over, passes SIGTERM and Ctrl-C on, and exits with the command's status.
"""

import json
import os
import runpy
import signal
import socket
import sys
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

    server = subprocess.Popen([sys.executable, __file__, address], **options)
    try:
        deadline = time.monotonic() + PATIENCE
        while not Path(address).exists():
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        server.kill()
        server.wait()


def run(address, words):
    """Let the server run a script and its arguments, with this process's folder, environment and output."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = {"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(request).encode()], [1, 2])
    answers = connection.makefile()
    pid = int(answers.readline())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    sys.exit(int(answers.readline()))


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
            connection.sendall(f"{pid}\n".encode())
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            connection.sendall(f"{status}\n".encode())
            os._exit(0)
        connection.close()
        for output in outputs:
            os.close(output)


def command(outputs, words, folder, environment):
    import torch  # which the server has loaded

    for output, number in zip(outputs, (1, 2)):
        os.dup2(output, number)
    # Those of the server know what kind of file they were opened on.
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server in the background of a shell ignores Ctrl-C
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    sys.path[1:1] = environment.get("PYTHONPATH", "").split(os.pathsep)
    if words[0] == "-u":  # so torchrun starts its processes
        words = words[1:]
    if words[0] == "-m":
        sys.path[0] = folder
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(words[0]).resolve().parent)
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    # What takes the time.
    import seaborn  # noqa: F401
    import torchvision  # noqa: F401
    from short_mobilenet import STAGES

    import fastreid.analysis.model_figures
    import fastreid.engine.defaults  # noqa: F401
    from fastreid.modeling.backbones import mobilenet_v2

    mobilenet_v2.STAGES = STAGES
    serve(sys.argv[1])
