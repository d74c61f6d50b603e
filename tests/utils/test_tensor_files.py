"""Files of tensors: what is refused, what is damaged, and the ways in which weights are kept."""

import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from fastreid.utils.errors import UserError
from fastreid.utils.tensor_files import DamagedFileError, load_tensors, named_tensors


class Call:
    """An object that a pickle makes by calling a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def save(path, content, **how):
    torch.save({"model": {"weight": torch.zeros(2)}, "extra": content}, path, **how)


def plain_pickle(path, content):
    path.write_bytes(pickle.dumps({"model": content}, protocol=5))


def by_hand(path, pickled):
    """Write an archive as torch.save does, around any pickle; its one storage is of two numbers."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", "data/0": bytes(8)}.items():
            archive.writestr(f"archive/{name}", data)


def text(value):
    """A pickle's bytes for a text."""
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def tensor(numbers):
    """A pickle's bytes for a tensor of that many numbers."""
    size = b"J" + numbers.to_bytes(4, "little")
    kept = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + size + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + kept
        + b"K\x00"
        + size
        + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    )


def refusal(path):
    with pytest.raises(UserError) as caught:
        load_tensors(path)
    assert not isinstance(caught.value, DamagedFileError), caught.value
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path} is refused: it holds ") and "hostile" in message
    return message


SAVES = {
    "today": save,
    "protocol 4": lambda path, content: save(path, content, pickle_protocol=4),
    "before 1.6": lambda path, content: save(path, content, _use_new_zipfile_serialization=False),
    "plain": plain_pickle,
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", SAVES)
@pytest.mark.parametrize(
    "function, arguments, name",
    [
        (os.system, "touch {}", "posix.system"),
        (eval, "open('{}', 'w')", "eval"),
        (os.mkdir, "{}", "posix.mkdir"),
        (torch.hub.load_state_dict_from_url, "file://{}", "torch.hub.load_state_dict_from_url"),
    ],
    ids=["system", "eval", "mkdir", "torch's own"],
)
def test_a_file_that_calls_a_function_is_refused_by_the_functions_name(tmp_path, how, function, arguments, name):
    path, made = tmp_path / "evil.pth", tmp_path / "made"
    SAVES[how](path, Call(function, arguments.format(made)))
    message = refusal(path)
    assert name in message or how in ("protocol 4", "plain"), message  # of these PyTorch refuses the kind of pickle
    assert not made.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "pickled, name",
    [
        (b"(S'touch made'\niposix\nsystem\n.", "posix.system"),
        (b"(cposix\nsystem\nS'touch made'\no.", "posix.system"),
        (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x8c\x0atouch made\x85R.", "posix.system"),
        (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x940h\x00h\x01\x93\x8c\x0atouch made\x85R.", "posix.system"),
        (
            tensor(2) + b"K\x00K\x01s.",
            "Tensor",
        ),  # writes into a tensor by what is for dictionaries: before PyTorch 2.10
        (tensor(2000) + b".", "cannot take"),  # more numbers than the file has
    ],
    ids=["instance", "object", "from the stack", "from the memo", "item of a tensor", "too few numbers"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_written_by_hand_is_refused(tmp_path, monkeypatch, pickled, name, legacy):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    if legacy and b"Q" in pickled:
        pytest.skip("its storages follow in another way")
    path.write_bytes(pickled) if legacy else by_hand(path, pickled)
    assert name in refusal(path)
    assert not (tmp_path / "made").exists()


def test_the_pickle_written_by_hand_is_one_that_can_be_read(tmp_path):
    by_hand(tmp_path / "good.pth", tensor(2) + b".")
    assert torch.equal(load_tensors(tmp_path / "good.pth"), torch.zeros(2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_torchscript_program_is_refused_and_not_run(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program.pth")
    assert "a TorchScript program" in refusal(tmp_path / "program.pth")


def test_an_archive_of_another_program_is_not_called_damaged(tmp_path):
    with zipfile.ZipFile(tmp_path / "book.pth", "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    assert "an archive of another program" in refusal(tmp_path / "book.pth")


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", b"PK\x03\x04", b"<html></html>", b"(lp0"])
def test_what_is_no_file_of_tensors_is_damaged(tmp_path, content):
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="is damaged, or not a PyTorch file"):
        load_tensors(path)


@pytest.mark.parametrize("how", ["today", "before 1.6"])
def test_a_file_that_is_cut_short_is_damaged(tmp_path, how):
    path = tmp_path / "damaged.pth"
    SAVES[how](path, torch.zeros(1000))
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(DamagedFileError):
        load_tensors(path)


def test_a_trusted_file_that_cannot_be_read_says_what_it_needs(tmp_path):
    by_hand(tmp_path / "model.pth", b"cno_such_package\nThing\n.")
    with pytest.raises(UserError, match="it holds no_such_package.Thing, .* that is not installed"):
        load_tensors(tmp_path / "model.pth", trust=True)


WEIGHTS = {"backbone.weight": torch.zeros(2), "heads.modules.bias": torch.ones(1)}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.module."]
)
@pytest.mark.parametrize("entry", ["", "model", "state_dict", "model/state_dict", "state_dict/model"])
def test_weights_have_their_plain_names_however_they_are_kept(prefix, entry):
    content = {prefix + name: value for name, value in WEIGHTS.items()}
    for name in reversed(entry.split("/") if entry else []):
        content = {name: content, "epoch": 3}
    assert named_tensors(content) == WEIGHTS


def test_a_part_that_was_compiled_has_its_plain_names():
    weights = {"module.backbone._orig_mod.conv.weight": torch.zeros(1), "heads._orig_mod.bias": torch.ones(1)}
    assert list(named_tensors(weights)) == ["backbone.conv.weight", "heads.bias"]


@pytest.mark.parametrize(
    "content",
    [3, [], {}, {"model": 3}, {"weight": 1}, {1: torch.zeros(1)}, {"a": torch.zeros(1), "module.a": torch.ones(1)}],
)
def test_what_is_no_file_of_weights_has_no_names(content):
    assert named_tensors(content) is None and named_tensors({"state_dict": content}) is None
