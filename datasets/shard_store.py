"""Where shards lie: a folder on disk, or any address that fsspec knows (s3://, gs://, hf://, memory://), kept locally.

``shards.index`` beside the shards says what drawing windows needs, so that a folder of a million opens with one read,
and a remote shard is fetched when a window of it is drawn: once, whole, under a temporary name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.shard_file import Shard, ShardFacts, save_arrays
from drive_wm.types import InputError

INDEX = "shards.index"
INDEX_FORMAT = "drive_wm.shards@1"
CACHE_VARIABLE = "DRIVE_WM_CACHE"


def is_remote(address: str | Path) -> bool:
    return "://" in str(address) and not str(address).startswith("file://")


def cache_folder(address: str) -> Path:
    """Where the shards of an address are kept: $DRIVE_WM_CACHE or ~/.cache/drive_wm, a folder an address."""
    root = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "drive_wm")
    return root / "shards" / hashlib.sha256(address.encode()).hexdigest()[:16]


class ShardStore:
    """A folder of shards, local or remote; ``local(name)`` is a file of it on this machine."""

    def __init__(self, address: str | Path, cache: Path | None = None) -> None:
        self.address = str(address).removeprefix("file://").rstrip("/")
        self.remote = is_remote(address)
        self.folder = (cache or cache_folder(self.address)) if self.remote else Path(self.address)

    def _filesystem(self) -> tuple[Any, str]:
        try:
            import fsspec  # type: ignore[import-untyped]
        except ImportError as error:
            raise InputError(f"{self.address}: remote shards need fsspec ({error}): pip install fsspec") from error
        try:
            return fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise InputError(f"{self.address}: {error}") from error

    def names(self) -> list[str]:
        """The shards' file names, sorted."""
        if not self.remote:
            return sorted(path.name for path in self.folder.glob("*.safetensors"))
        system, root = self._filesystem()
        try:
            found = system.ls(root, detail=False)
        except OSError as error:
            raise InputError(f"{self.address}: cannot be listed ({error!r})") from error
        return sorted(Path(name).name for name in found if name.endswith(".safetensors"))

    def local(self, name: str) -> Path:
        """The file on this machine, fetched where it is not yet. A file that is half fetched is never seen."""
        path = self.folder / name
        if self.remote and not path.exists():
            system, root = self._filesystem()
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
            try:
                system.get_file(f"{root}/{name}", str(temporary))
                os.replace(temporary, path)
            except OSError as error:
                raise InputError(f"{self.address}/{name}: cannot be fetched ({error!r})") from error
            finally:
                temporary.unlink(missing_ok=True)
        return path

    def shards(self) -> list[Shard]:
        """All of them, sorted by name: from the index, else each is opened (and fetched)."""
        facts = read_index(self.local(INDEX)) if self._has_index() else {}
        names = sorted(facts) if self.remote and facts else self.names()  # listing a bucket of a million takes minutes
        if set(facts) != set(names):  # packed further since, or some deleted
            facts = {}
        return [Shard(self.folder / name, facts.get(name), _Locate(self, name)) for name in names]

    def _has_index(self) -> bool:
        if not self.remote:
            return (self.folder / INDEX).is_file()
        system, root = self._filesystem()
        (self.folder / INDEX).unlink(missing_ok=True)  # it is small, and may be newer there
        return bool(system.exists(f"{root}/{INDEX}"))


class _Locate:
    """A call that can travel to a worker process."""

    def __init__(self, store: ShardStore, name: str) -> None:
        self.store, self.name = store, name

    def __call__(self) -> Path:
        return self.store.local(self.name)


def upload(folder: Path, address: str) -> None:
    """Shards and index of a folder to an fsspec address; the index last, so that what it lists is there."""
    system, root = ShardStore(address)._filesystem()
    system.makedirs(root, exist_ok=True)
    for path in (*sorted(folder.glob("*.safetensors")), folder / INDEX):
        system.put_file(str(path), f"{root}/{path.name}")


# --- the index ----------------------------------------------------------------------------------------------------


def write_index(folder: Path) -> None:
    """Facts of every shard of a local folder, as safetensors: arrays end to end, and a row of JSON a shard."""
    names = ShardStore(folder).names()
    facts = [Shard(folder / name).facts for name in names]
    rows = [{"name": name, "sizes": f.sizes, "steps": len(f.usable), "weight": f.weight, "tokenizer": f.tokenizer}
            for name, f in zip(names, facts)]
    arrays = {"speed_mps": np.concatenate([np.append(f.speed_mps, 0.0) for f in facts]),  # one a step, to share ends
              "yaw_rad": np.concatenate([f.yaw_rad for f in facts]),
              "usable": np.concatenate([f.usable for f in facts])}
    save_arrays(arrays, {"format": INDEX_FORMAT, "shards": rows}, folder / INDEX)


def read_index(path: Path) -> Mapping[str, ShardFacts]:
    """name -> facts."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "np") as f:
            meta = json.loads((f.metadata() or {}).get("drive_wm", "{}"))
            speed, yaw, usable = (f.get_tensor(key) for key in ("speed_mps", "yaw_rad", "usable"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not a readable index ({error}); delete it") from None
    if meta.get("format") != INDEX_FORMAT:
        raise InputError(f"{path}: format {meta.get('format')!r}, expected {INDEX_FORMAT!r}; delete it")
    facts, start = {}, 0
    for row in meta["shards"]:
        part, start = slice(start, start + row["steps"]), start + row["steps"]
        sizes = tuple((int(h), int(w)) for h, w in row["sizes"])
        facts[row["name"]] = ShardFacts(sizes, speed[part][:-1], yaw[part], usable[part], row["weight"],
                                        row["tokenizer"])
    return facts
