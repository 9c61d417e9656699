"""KIND:PATH opens a source; every mistake in it is told in one line that says how to mend it."""

from pathlib import Path

import pytest

from drive_wm.datasets import sources
from drive_wm.datasets.sources import Source, open_source, register_source
from drive_wm.types import InputError


def test_every_kind_of_the_table_is_a_class_of_its_kind() -> None:
    for kind in sources.SOURCES:
        assert sources.source_class(kind).kind == kind


def test_unknown_kind_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'argoverse2'"):
        open_source(f"argovers:{tmp_path}")


@pytest.mark.parametrize("text", ["drive_folder", "", ":here", "drive_folder:"])
def test_malformed_text_says_what_is_expected(text: str) -> None:
    with pytest.raises(InputError, match="KIND:PATH|drive_folder:PATH"):
        open_source(text)


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder .*nowhere"):
        open_source(f"drive_folder:{tmp_path / 'nowhere'}")


def test_relative_paths_start_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="rig.json"):
        open_source("drive_folder:mine")


def test_third_parties_register_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    register_source("again", "drive_wm.datasets.drive_folder:DriveFolderSource")
    with pytest.raises(InputError, match="already"):
        register_source("again", "elsewhere:Other")
    with pytest.raises(InputError, match="rig.json"):
        open_source(f"again:{tmp_path}")
    register_source("lost", "drive_wm.no_such_module:Lost")
    with pytest.raises(InputError, match="cannot be imported"):
        open_source(f"lost:{tmp_path}")


def test_several_sources_are_one() -> None:
    mixed = open_source(["town:3-4", "town:7"])
    assert isinstance(mixed, Source) and mixed.log_ids() == ["town-000003", "town-000004", "town-000007"]
    assert open_source(["town:7"]).kind == "town"
    with pytest.raises(InputError, match="town:3-4 and town:4 both have a log 'town-000004'"):
        open_source(["town:3-4", "town:4"])
    with pytest.raises(InputError, match="no log 'town-000005' in any of the sources; did you mean 'town-00000"):
        mixed.load("town-000005")


def test_recorded_drives_open_as_sources(shared_data: Path) -> None:
    source = open_source(f"drive_folder:{shared_data / 'drives'}")
    assert isinstance(source, Source)
    assert source.log_ids() == ["karlsruhe_0001", "karlsruhe_0005"]
    with pytest.raises(InputError, match="did you mean 'karlsruhe_0005'"):
        source.load("karlsruhe_05")
