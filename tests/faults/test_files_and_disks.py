"""Checkpoints that are damaged, disks that are full, folders that cannot be written to, images that cannot be read."""

import contextlib
import os
import subprocess
import time

import pytest


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(work):
    names = [f"model_{4 * n - 1:07d}.pth" for n in range(1, 5)]
    folder = work.copy_of_the_reference("run", names[2])
    damage(folder / names[2], "cut")
    damage(folder / names[1], "bit")
    output = work.train_until("run", names[3], "--resume")
    assert f"WARNING: {names[2]}, {names[1]} damaged: {folder / names[0]} is used instead" in output
    assert f"resumed {folder / names[0]} at iteration 4" in output
    work.assert_like_the_reference("run", names[3])


def test_damaged_checkpoints_alone_are_one_line(work):
    names = [f"model_{4 * n - 1:07d}.pth" for n in range(1, 3)]
    folder = work.copy_of_the_reference("run", names[1])
    for name in names:
        damage(folder / name, "cut")
    output = work.start("run", "--resume").finish(status=2)
    assert f"no checkpoint can be read ({names[1]}, {names[0]} damaged)" in output.splitlines()[-1]
    assert "Traceback" not in output


def test_a_full_disk_is_an_error_and_the_checkpoint_of_before_stays(work):
    last = "model_0000007.pth"
    folder = work.copy_of_the_reference("run", last)
    before = (folder / last).read_bytes()
    output = work.start("run", "--resume", file_limit=len(before) // 2).finish(status=2)
    message = output.splitlines()[-1]
    assert message.startswith("error: cannot write ") and "MB needed" in message and "Traceback" not in output
    assert work.last("run") == last and (folder / last).read_bytes() == before
    assert not [name for name in work.names("run") if ".tmp" in name]
    assert not (folder / "model_0000011.pth").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB, where it can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_file_system_without_room_for_the_checkpoints_is_refused_at_the_start(work, small_disk):
    output = work.start("small").finish(status=2)
    message = output.splitlines()[-1]
    assert "error: the run's 1001 new checkpoints of " in message and "SOLVER.CHECKPOINT_KEEP" in message
    assert "training from" not in output and not list(small_disk.glob("*.pth"))


def test_a_file_system_that_others_fill_is_an_error_before_anything_is_written(work, small_disk):
    command = work.start("small", "SOLVER.CHECKPOINT_KEEP", 1)
    work.wait_for_checkpoint("small")
    deadline = time.monotonic() + 60
    while "error: " not in command.path.read_text() and time.monotonic() < deadline:
        with contextlib.suppress(OSError), (small_disk / "other").open("ab") as other:  # also what the run makes free
            while True:
                other.write(bytes(4096))
                other.flush()
    output = command.finish(status=2)
    assert "error: cannot write " in output.splitlines()[-1] and "Traceback" not in output
    last = work.last("small")
    assert last and work.content("small", last)["iteration"] >= 3
    assert not [name for name in work.names("small") if ".tmp" in name]


@pytest.fixture
def read_only(tmp_path):
    """A folder that nobody can write into, not even root."""
    folder = tmp_path / "run"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
        return
    if subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode != 0:
        pytest.skip("root may write everywhere, and this file system has no immutable folders")
    yield folder
    subprocess.run(["chattr", "-i", str(folder)], check=True)


def test_a_read_only_output_folder_is_one_line(work, read_only):
    output = work.start("run").finish(status=2)
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith(f"error: cannot write to the output folder {read_only} (")


def test_a_file_in_the_place_of_the_output_folder_is_one_line(work):
    (work.folder / "run").write_text("a file")
    output = work.start("run/below").finish(status=2)
    assert "Traceback" not in output and "error: cannot write to the output folder" in output.splitlines()[-1]
    assert (work.folder / "run").read_text() == "a file"


def test_an_image_that_is_damaged_during_a_run_stops_it_or_is_passed_over(work):
    image = work.data / "b" / "train" / "2_c1_1.png"
    whole = image.read_bytes()
    command = work.start("run", "DATALOADER.NUM_WORKERS", 1)
    work.wait_for_checkpoint("run")
    image.write_bytes(whole[: len(whole) // 2])
    output = command.finish(status=2)
    assert output.splitlines()[-1].startswith("error: ") and str(image) in output.splitlines()[-1]
    assert "Traceback" not in output
    last = work.last("run")
    later = f"model_{work.content('run', last)['iteration'] + 12:07d}.pth"  # every image is seen again before it
    output = work.train_until("run", later, "--resume", "DATALOADER.SKIP_CORRUPT", True)
    assert f"resumed {work.folder / 'run' / last}" in output
    assert str(image) in output and "unreadable images so far: 1" in output
