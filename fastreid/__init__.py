"""MetaBIN: generalizable person re-identification by meta batch-instance normalization (CVPR 2021)."""

import sys

if sys.platform == "win32":  # cache and locks need fcntl, the workers of the cache fork
    sys.exit("error: this program needs Linux or macOS: on Windows install WSL (wsl --install) and run it there")

__all__ = ["Predictor"]
__version__ = "1.0.0"


def __getattr__(name: str):
    """Import `Predictor`, and PyTorch with it, when it is asked for: `import fastreid` stays quick."""
    if name == "Predictor":
        from fastreid.engine.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
