"""Where logs come from: one line of text, ``KIND:PATH``, opens any of them."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from drive_wm.types import InputError, Log

ENTRY_POINT_GROUP = "drive_wm.sources"

# A class is called with what follows the colon, as a Path where it has ``takes_path`` (the default), else as text.
SOURCES: dict[str, str] = {
    "town": "drive_wm.datasets.town:TownSource",
    "nuscenes": "drive_wm.datasets.nuscenes:NuScenesSource",
    "argoverse2": "drive_wm.datasets.argoverse2:Argoverse2Source",
    "drive_folder": "drive_wm.datasets.drive_folder:DriveFolderSource",
    "physical_ai": "drive_wm.datasets.physical_ai:PhysicalAISource",
    "curated": "drive_wm.datasets.curated:CuratedSource",
}


@runtime_checkable
class Source(Protocol):
    """A place with logs. ``load`` raises InputError for an id that is not among ``log_ids``."""

    kind: str

    def log_ids(self) -> list[str]: ...

    def load(self, log_id: str) -> Log: ...


def register_source(kind: str, target: str) -> None:
    """Adds a kind of source, ``target`` being "package.module:Class"; a kind that is taken raises InputError."""
    if kind in SOURCES:
        raise InputError(f"source kind {kind!r} is already {SOURCES[kind]}; choose another name for {target}")
    if not kind.isidentifier() or target.count(":") != 1:
        raise InputError(f"source {kind!r} -> {target!r}: expected a plain name and 'package.module:Class'")
    SOURCES[kind] = target


def source_kinds() -> dict[str, str]:
    """All kinds: the table above, and the entry points of installed packages; two of one name raise InputError."""
    kinds = dict(SOURCES)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if kinds.get(entry.name, entry.value) != entry.value:
            raise InputError(f"source kind {entry.name!r} is both {kinds[entry.name]} and {entry.value}; uninstall one")
        kinds[entry.name] = entry.value
    return kinds


def nearest(name: str, known: list[str]) -> str:
    """``; did you mean ...?`` or nothing, then what there is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    shown = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (there are: {shown or 'none'})"


def source_class(kind: str) -> Any:
    """The class behind a kind, imported now and not before."""
    kinds = source_kinds()
    if kind not in kinds:
        raise InputError(f"unknown source kind {kind!r}{nearest(kind, sorted(kinds))}")
    module, _, name = kinds[kind].partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(f"source kind {kind!r} needs {kinds[kind]}, which cannot be imported: {error}") from error


class MixedSource:
    """The logs of several sources, one source after another; two logs of one id raise InputError."""

    kind = "mixed"

    def __init__(self, texts: Sequence[str]) -> None:
        self.owner: dict[str, tuple[str, Source]] = {}
        for text in texts:
            source = open_source(text)
            for log_id in source.log_ids():
                if log_id in self.owner:
                    raise InputError(f"{self.owner[log_id][0]} and {text} both have a log {log_id!r}; give one of them")
                self.owner[log_id] = (text, source)

    def log_ids(self) -> list[str]:
        return list(self.owner)

    def load(self, log_id: str) -> Log:
        if log_id not in self.owner:
            raise InputError(f"no log {log_id!r} in any of the sources{nearest(log_id, self.log_ids())}")
        return self.owner[log_id][1].load(log_id)


def open_source(text: str | Sequence[str]) -> Source:
    """Opens ``KIND:PATH``, such as ``drive_folder:recordings/monday``; relative paths start at the working directory.

    Several texts are opened as one source. Raises InputError for an unknown kind (naming the nearest one) and for a
    path that is not there.
    """
    if not isinstance(text, str):
        return open_source(text[0]) if len(text) == 1 else MixedSource(text)
    kind, colon, rest = text.partition(":")
    if not colon or not kind:
        raise InputError(f"source {text!r}: expected KIND:PATH, such as drive_folder:recordings/monday; "
                         f"kinds are {', '.join(source_kinds())}")
    cls = source_class(kind)
    if not getattr(cls, "takes_path", True):
        return cls(rest)
    if not rest:
        raise InputError(f"source {text!r}: no path after the colon, expected {kind}:PATH")
    path = Path(rest).expanduser()
    if not path.exists():
        raise InputError(f"source {text!r}: no such folder {path.resolve()}; give a path that exists")
    return cls(path)
