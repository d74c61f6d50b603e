"""The commands of the published README: links to data sets, logs and pre-trained models, the compiled evaluator."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_server import PATIENCE

ROOT = Path(__file__).parents[2]
SHELLS = ["sh", "bash"]


@pytest.fixture
def project(tmp_path):
    """A folder with the scripts, in a place with blanks and brackets, beside others."""
    project = tmp_path / "my work (1)" / "MetaBIN"
    for name in ("symbolic_link_dataset.sh", "symbolic_link_others.sh", "tools/link_entries.sh"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    for folder in ("datasets", "logs", "pretrained"):
        (project / folder).mkdir()
        (project / folder / "README.md").write_text("ours")
    return project


def run(project: Path, *command: str, cwd: Path | None = None, status: int = 0) -> str:
    done = subprocess.run(command, cwd=cwd or project, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def edit_list(project: Path, folders: list[Path | str]) -> None:
    """Write other folders into the list at the top of the script, as a user does."""
    script = project / "symbolic_link_dataset.sh"
    head, _, rest = script.read_text().partition('folders="\n')
    _, _, rest = rest.partition('"\n')
    listed = "".join(f"{folder}\n" for folder in folders)
    script.write_text(f'{head}folders="\n{listed}"\n{rest}')


@pytest.mark.parametrize("shell", SHELLS)
def test_data_sets_of_the_list_are_linked(project, tmp_path, shell):
    disk = tmp_path / "disk 1"
    for name in ("GRID", "viper"):
        (disk / name).mkdir(parents=True)
    edit_list(project, [disk / "GRID", f"  {disk}/viper/", ""])
    output = run(project, shell, "symbolic_link_dataset.sh")
    assert "2 new link(s) in datasets/" in output
    assert {path.name: path.resolve() for path in (project / "datasets").iterdir() if path.is_symlink()} == {
        "GRID": disk / "GRID",
        "viper": disk / "viper",
    }
    # Again, from elsewhere, with one that has gone: the others stay, and one line says what is missing.
    (disk / "viper").rmdir()
    output = run(project, shell, str(project / "symbolic_link_dataset.sh"), cwd=tmp_path, status=2)
    assert "as it was: datasets/GRID" in output
    assert f"error: 1 of the 2 folders in the list are not there, the first is {disk}/viper/: edit the list" in output


@pytest.mark.parametrize("shell", SHELLS)
def test_a_list_that_nobody_edited_or_that_is_empty_is_one_line(project, shell):
    output = run(project, shell, "symbolic_link_dataset.sh", status=2)
    assert output.count("\n") == 1 and "the first is /path/to/Market-1501-v15.09.15: edit the list at the top" in output
    edit_list(project, [])
    output = run(project, shell, "symbolic_link_dataset.sh", status=2)
    assert output.count("\n") == 1 and "error: 0 of the 0 folders in the list" in output and "usage" not in output


def test_the_folder_of_an_argument_is_linked_whole(project, tmp_path):
    for name in ("GRID", "viper"):
        (tmp_path / "disk" / name).mkdir(parents=True)
    (project / "datasets" / "viper").mkdir()
    output = run(project, "bash", "symbolic_link_dataset.sh", "../../disk")
    assert "linked: datasets/GRID" in output and "left alone: datasets/viper is not a link" in output
    assert (project / "datasets" / "GRID").resolve() == tmp_path / "disk" / "GRID"
    output = run(project, "bash", "symbolic_link_dataset.sh", "nowhere", status=2)
    assert output.startswith("error: nowhere is not a folder") and output.count("\n") == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_logs_and_pretrained_beside_the_project_are_linked(project, shell):
    beside = project.parent
    output = run(project, shell, "symbolic_link_others.sh", status=2)
    assert output.count("\n") == 1 and "neither ../MetaBIN(logs) nor ../MetaBIN(pretrained) is a folder" in output
    (beside / "MetaBIN(logs)" / "Sample" / "DG-mobilenet").mkdir(parents=True)
    assert "1 new link(s) in logs/" in run(project, shell, "symbolic_link_others.sh")
    (beside / "MetaBIN(pretrained)").mkdir()
    (beside / "MetaBIN(pretrained)" / "mobilenetv2_1.4.pth").touch()
    (beside / "MetaBIN(pretrained)" / "README.md").write_text("theirs")
    output = run(project, shell, "symbolic_link_others.sh")
    assert "as it was: logs/Sample" in output and "linked: pretrained/mobilenetv2_1.4.pth" in output
    assert (project / "logs/Sample/DG-mobilenet").is_dir() and (project / "pretrained/mobilenetv2_1.4.pth").is_file()
    assert (project / "pretrained/README.md").read_text() == "ours"


def test_a_folder_with_logs_and_pretrained_is_linked(project, tmp_path):
    (tmp_path / "kept" / "logs" / "Sample").mkdir(parents=True)
    run(project, "bash", "symbolic_link_others.sh", str(tmp_path / "kept"))
    assert (project / "logs" / "Sample").resolve() == tmp_path / "kept" / "logs" / "Sample"
    output = run(project, "bash", "symbolic_link_others.sh", str(tmp_path), status=2)
    assert output.count("\n") == 1 and f"neither {tmp_path}/logs nor {tmp_path}/pretrained is a folder" in output


def test_make_all_builds_with_the_projects_python_and_loads_what_was_built(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    folder = tmp_path / "fastreid" / "evaluation" / "rank_cylib"
    folder.mkdir(parents=True)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "find_python.sh", tmp_path / "tools")
    shutil.copy(ROOT / "fastreid/evaluation/rank_cylib/Makefile", folder)
    # Stands for the build, which tests/evaluation/test_extension_build.py does.
    (tmp_path / "setup.py").write_text(
        "import sys\nassert sys.argv[1:] == ['build_ext', '--inplace']\n"
        "open('fastreid/evaluation/rank_cylib/rank_cy.py', 'w').close()\n"
    )
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["make", "-C", str(folder), "all"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and f"built {folder}/rank_cy.py" in done.stdout, done.stderr
    (tmp_path / "setup.py").write_text("")  # nothing comes out of it, as without a C compiler
    (folder / "rank_cy.py").unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0 and "No module named 'rank_cy'" in done.stderr
