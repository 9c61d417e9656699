"""Everything the tree holds arrives, by wheel and by sdist, under drive_wm and under no other name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("datasets", "planners", "eval", "configs")
HEAVY = ("lightning", "pytorch_lightning", "transformers", "nuscenes", "matplotlib", "pyarrow", "av", "jinja2", "wandb",
         "scipy", "shapely", "sklearn", "pandas")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def python(code: str, *, cwd: Path, path: list[Path]) -> str:
    """What ``code`` prints, run from ``cwd`` with ``path`` in front of the installed packages."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules() -> set[str]:
    """drive_wm/**/*.py by path, links followed."""
    found = set()
    for folder, names, files in os.walk(ROOT / "drive_wm", followlinks=True):
        names[:] = [name for name in names if name != "__pycache__"]
        found |= {(Path(folder) / file).relative_to(ROOT).as_posix() for file in files if file.endswith(".py")}
    return found


def build(kind: str, source: Path, out: Path) -> Path:
    """A wheel or sdist made by setuptools itself, from what is installed."""
    pytest.importorskip("setuptools", minversion="77")
    python(f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})", cwd=source, path=[])
    return next(out.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist) of a copy of the tree, as building writes into it."""
    top = tmp_path_factory.mktemp("build")
    copy = top / "copy"
    copy.mkdir()
    for name in ("drive_wm", *ROOMS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return build("wheel", copy, top / "wheel"), build("sdist", copy, top / "sdist")


def test_the_list_of_packages_is_the_tree() -> None:
    tree = sorted({Path(path).parent.as_posix().replace("/", ".") for path in modules()})
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == tree


def test_rooms_are_bare_folders_behind_relative_links() -> None:
    for room in ROOMS:
        assert (ROOT / room).is_dir() and not (ROOT / room / "__init__.py").exists()
        assert (ROOT / "drive_wm" / room).is_symlink() and os.readlink(ROOT / "drive_wm" / room) == f"../{room}"


def test_wheel_and_sdist_hold_the_whole_tree_and_nothing_beside_it(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    data = {"drive_wm/py.typed", "drive_wm/eval/templates/report.html.j2", "drive_wm/eval/commonest_answers.json"}
    data |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "drive_wm" / "pretrained").glob("*/*")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == modules() | data
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert modules() | data <= set(members) and not any(member.issym() for member in members.values())


def test_a_wheel_of_the_sdist_is_the_same(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    again = build("wheel", next((tmp_path / "source").iterdir()), tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as a, zipfile.ZipFile(again) as b:
        assert sorted(a.namelist()) == sorted(b.namelist())


def test_the_installed_wheel_runs_away_from_the_tree(built: tuple[Path, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        archive.extractall(tmp_path / "site")
    code = ("import drive_wm.datasets.sources, drive_wm.planners.base, drive_wm.cli\n"
            "from drive_wm.eval import report\n"
            "print(report.__file__); print('<h1>T' in report.render_report('T', []))\n"
            "print(drive_wm.cli.run(['data', 'list']))")
    lines = python(code, cwd=tmp_path, path=[tmp_path / "site"]).splitlines()
    assert lines[0].startswith(str(tmp_path)) and lines[1] == "True" and lines[-1] == "0"


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_regular_package_called_datasets_stays_itself(order: str, tmp_path: Path) -> None:
    """Hugging Face's library is one; a bare folder never wins over it, wherever it stands on the path."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("name = 'theirs'\n")
    code = ("import datasets, drive_wm.datasets.sources as ours\n"
            "print(datasets.name, ours.__name__, ours.__file__)")
    path = [tmp_path, ROOT] if order == "before" else [ROOT, tmp_path]
    theirs, name, file = python(code, cwd=ROOT, path=path).split()
    assert theirs == "theirs" and name == "drive_wm.datasets.sources" and file.startswith(str(ROOT))


def test_transformers_run_from_the_root_of_the_repository() -> None:
    """There they take the bare folder for the library they look for; a model must load and run all the same."""
    code = ("from transformers import LlamaConfig, LlamaForCausalLM\n"
            "import torch, drive_wm.datasets.sources\n"
            "config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,"
            " num_attention_heads=2, num_key_value_heads=1)\n"
            "print(LlamaForCausalLM(config)(torch.zeros(1, 3, dtype=torch.long)).logits.shape[-1])")
    assert python(code, cwd=ROOT, path=[ROOT]).split()[-1] == "8"


def test_importing_brings_nothing_heavy_and_does_nothing(tmp_path: Path) -> None:
    """Of all rooms but training, which is made of Lightning's classes."""
    names = sorted(path[:-3].replace("/", ".").removesuffix(".__init__") for path in modules())
    names = [name for name in names if not name.startswith("drive_wm.training.")]
    code = ("import importlib, sys\n"
            f"for name in {names!r}:\n"
            "    importlib.import_module(name)\n"
            f"    heavy = [h for h in {HEAVY!r} if h in sys.modules]\n"
            "    assert not heavy, f'{name} imports {heavy}'\n")
    assert python(code, cwd=tmp_path, path=[ROOT]) == "" and not list(tmp_path.iterdir())


def test_the_version_has_one_source() -> None:
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "drive_wm.__version__"}
