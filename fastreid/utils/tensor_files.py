"""PyTorch files from anywhere: read without running what is in them, and told apart where they cannot be read."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fastreid.utils.errors import UserError

LEGACY_PICKLES = 5  # those that a file of PyTorch before 1.6 begins with: magic number, version, system, content, keys
STRINGS = ("UNICODE", "STRING")  # in the names of the pickle operations that hold one
# What DataParallel, torch.compile (of a part, too) and classes around a model put into the names of its tensors.
WRAPPER = re.compile(r"^(?:(?:_orig_mod|module|model)\.)+|(?<=\.)_orig_mod\.")


class DamagedFileError(UserError):
    """A PyTorch file is cut short or changed; its content cannot be used."""


def load_tensors(path: Path, trust: bool = False) -> Any:
    """Return the content of a PyTorch file, which may hold nothing that could run code, unless `trust` is given.

    Raises:
        UserError: the file is damaged (DamagedFileError), or holds anything but tensors and plain values.
    """
    try:
        check_sums(path)
    except Exception as error:  # zipfile raises whatever it meets, from zlib.error to NotImplementedError
        raise damaged(path, error) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch.load raises whatever its unpickler meets, from EOFError to KeyError
        # By the file itself, not by the kind of the error: PyTorch has many names for what it refuses.
        found = foreign_content(path, error)
        if found is None:
            raise damaged(path, error) from error
        advice = (
            "it needs a package or a version that is not installed"
            if trust
            else (
                "so it may be hostile: reading it could run any code. If you trust where it comes from, add "
                "--trust-checkpoint, or save its tensors again"
            )
        )
        raise UserError(f"{path} is refused: it holds {found}, not only tensors and plain values, {advice}") from error


def damaged(path: Path, error: Exception) -> DamagedFileError:
    """Return the error that calls a file damaged."""
    return DamagedFileError(
        f"{path} is damaged, or not a PyTorch file of tensors and plain values ({type(error).__name__}): use another "
        "file"
    )


def check_sums(path: Path) -> None:
    """Compare the content of a PyTorch file with the check sums in it, which torch.load does not look at.

    Raises:
        zipfile.BadZipFile: it was changed. Files of PyTorch before 1.6 have none.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(f"the check sum of {bad} is wrong")


def foreign_content(path: Path, error: Exception) -> str | None:
    """Return what a file holds that PyTorch could not read; None if it is damaged instead.

    A file is not damaged if its check sums are right. One of PyTorch before 1.6, which has none, is not if its pickle
    is whole and the unpickler itself gave up.
    """
    message = " ".join(str(error).rpartition("WeightsUnpickler error: ")[2].split())  # without PyTorch's own advice
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                return "a TorchScript program"
            pickled = next((archive.read(name) for name in names if name.endswith("/data.pkl")), None)
        if pickled is None:
            return "an archive of another program"
        loaded = loaded_names(io.BytesIO(pickled)) or []
    else:
        with path.open("rb") as file:
            pickles = [loaded_names(file) for _ in range(LEGACY_PICKLES)]
        if pickles[0] is None or not isinstance(error, (pickle.UnpicklingError, ImportError, AttributeError)):
            return None
        loaded = [name for names in pickles for name in names or []]
    suspects = [name for name in loaded if name != "collections.OrderedDict"]  # which every file of weights holds
    named = [name for name in suspects if name in message]
    named += [name for name in suspects if not name.startswith("torch.")]
    return named[0] if named else f"what PyTorch cannot take ({message[:200]})"


def loaded_names(file: BinaryIO) -> list[str] | None:
    """Return the classes and functions, as module.name, that a pickle would load; None if it is no whole pickle.

    The pickle is not executed.
    """
    names: list[str] = []
    strings: list[str] = []  # as they were pushed
    memo: dict[int, str] = {}
    try:
        for operation, argument, _ in pickletools.genops(file):
            kind = operation.name
            if kind in ("GLOBAL", "INST"):
                names.append(argument.replace(" ", "."))
            elif kind == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif any(word in kind for word in STRINGS):
                strings.append(str(argument))
            elif kind == "MEMOIZE" or kind.endswith("PUT"):
                memo[len(memo) if argument is None else int(argument)] = strings[-1] if strings else ""
            elif kind.endswith("GET"):
                strings.append(memo.get(int(argument), ""))
    except ValueError:  # an unknown operation, or the end before STOP
        return None
    return names


def named_tensors(content: Any) -> dict[str, Tensor] | None:
    """Return the tensors of a file of weights, by their names in the plain model; None if it is no such file.

    They may lie under `model` or `state_dict`, with the prefixes of DataParallel, torch.compile or a class around it.
    """
    for _ in range(2):
        for entry in ("model", "state_dict"):
            if isinstance(content, dict) and isinstance(content.get(entry), dict):
                content = content[entry]
    if not isinstance(content, dict) or not content:
        return None
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        return None
    plain = {WRAPPER.sub("", name): value for name, value in content.items()}
    return plain if len(plain) == len(content) else None
