"""Fixtures that several folders of tests share."""

import gc
import importlib.util
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

# As tools/train_net.py does, before PyTorch is loaded: threads that wait by spinning make a busy machine many times
# slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads cost a sixth of the time
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.command_server import serving, write_python

GOLDEN = Path(__file__).parent / "golden"


def load(name: str) -> ModuleType:
    """Return a module of tests/golden."""
    spec = importlib.util.spec_from_file_location(f"golden_{name}", GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def command_server(tmp_path_factory):
    """Address of a server of commands: see command_server.py."""
    address = str(tmp_path_factory.mktemp("command_server") / "socket")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with serving(address, env=environment):
        yield address


@pytest.fixture(scope="session")
def python(command_server, tmp_path_factory):
    """Path of an executable that stands in for Python and starts in moments, as PyTorch is loaded already."""
    return str(write_python(tmp_path_factory.mktemp("python") / "python3", command_server))


@pytest.fixture(scope="session")
def recipe():
    """How the reference vectors' weights and images were filled: tests/golden/recipe.py."""
    return load("recipe")


@pytest.fixture(scope="session")
def golden_steps():
    """Training steps against the published program: tests/golden/steps.py."""
    return load("steps")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run what takes minutes: 20 kills instead of 3")


def pytest_collectstart():
    """Let Triton's kernels run as plain Python where there is no GPU. It must be told before it is loaded.

    The process that hands tests out to others collects none, and starts sooner without PyTorch.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_finish():
    """Spare garbage collections what is loaded by then, a third of a second each."""
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed():
    """Random numbers that a test draws are the same each time."""
    import torch

    # torch.manual_seed also keeps a stack trace for each kind of device that might come: 4 ms
    (torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed)(0)


@pytest.fixture
def one_thread():
    """Compute with one thread.

    PyTorch sums up in another order for other batch sizes if it has several. Instance normalization of the tests' maps,
    of a few pixels, would turn such last digits into other features.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextmanager
def short_network():
    """MobileNetV2 is that of tests/short_mobilenet.py within."""
    from fastreid.modeling.backbones import mobilenet_v2
    from tests.short_mobilenet import STAGES

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet_v2, "STAGES", STAGES)
        yield


@pytest.fixture(scope="module")
def short_mobilenet():
    """The network of tests/short_mobilenet.py here; commands by `python` and those of faults/ have it anyway."""
    with short_network():
        yield


@pytest.fixture(autouse=True)
def own_log():
    """Begin and end each test with a logger that nobody set up.

    Commands that run in this process set it up: those of the test, and those of fixtures that several tests share. The
    latter have run before this fixture does, so what is there at the beginning is not what belongs there.
    """
    forget_log()
    yield
    forget_log()


def forget_log() -> None:
    logger = logging.getLogger("fastreid")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def make_run():
    """Make a run's folder with an untrained model whose gates and statistics are none of their first values.

    It is the network of tests/short_mobilenet.py: what reads it needs the fixture of that name.
    """
    import torch

    from fastreid.config import get_cfg
    from fastreid.modeling import build_model
    from fastreid.utils.checkpoint import Checkpointer

    def make(folder: Path, *options: str) -> Path:
        cfg = get_cfg()
        cfg.merge_from_list(
            ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_mobilenet_v2_backbone", "MODEL.BACKBONE.DEPTH", "10"]
            + ["MODEL.BACKBONE.PRETRAIN", "False", "MODEL.HEADS.IN_FEAT", "1280", "MODEL.HEADS.NUM_CLASSES", "3"]
            + ["MODEL.NORM.TYPE_BACKBONE", "BIN_gate2", "MODEL.NORM.BIN_INIT", "random"]
            + ["INPUT.SIZE_TEST", "[32, 16]", "TEST.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0", *options]
        )
        torch.manual_seed(1)
        with short_network():
            model = build_model(cfg)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 1.5)
        Checkpointer(model, folder).save("model_final", iteration=0)
        (folder / "config.yaml").write_text(cfg.dump())
        return folder

    return make


@pytest.fixture(scope="session")
def run_folder(make_run, tmp_path_factory):
    """A run's folder: MobileNetV2 with batch-instance normalization, images 32 x 16. Nothing may write into it."""
    return make_run(tmp_path_factory.mktemp("run"))
