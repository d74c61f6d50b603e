"""Training commands as children of a process that has loaded PyTorch: each starts in moments, not seconds.

`python train_server.py SOCKET` serves; `run(SOCKET)` is what a command's script calls: it hands its arguments, folder and
output over, passes SIGTERM on, and exits with the command's status.
"""

import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "train_net.py"


def run(address):
    """Let the server run the training command with this process's arguments, folder, environment and output."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = {"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(request).encode()], [1])
    answers = connection.makefile()
    pid = int(answers.readline())
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    sys.exit(int(answers.readline()))


def serve(address):
    """Answer requests for ever, each by a process that waits for its command."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        data, (output,), _, _ = socket.recv_fds(connection, 2**20, 1)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            pid = os.fork()
            if pid == 0:
                train(output, **json.loads(data))
            connection.sendall(f"{pid}\n".encode())
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            connection.sendall(f"{status}\n".encode())
            os._exit(0)
        connection.close()
        os.close(output)


def train(output, words, folder, environment):
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = [str(TOOL), *words]
    runpy.run_path(str(TOOL), run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    import fastreid.engine.defaults  # noqa: F401  what takes the time

    serve(sys.argv[1])
