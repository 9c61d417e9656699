"""A generated town: streets, traffic, an expert driver with reasons. The same seed gives the same drive."""

from __future__ import annotations

from drive_wm.datasets.town.drive import GENERATOR_VERSION, draw_look, split_of
from drive_wm.datasets.town.guard import drawn
from drive_wm.datasets.town.overlap import overlapping
from drive_wm.types import InputError, Log, Look, Rig

__all__ = ["GENERATOR_VERSION", "TownSource", "draw_look", "generate", "overlapping", "split_of"]


def generate(seed: int, *, duration_s: float = 20.0, rig: Rig | None = None, look: Look | None = None) -> Log:
    """A drive of ``duration_s`` at 10 Hz, all of it drawn from ``seed`` (0..119999, which also tells the split).

    Ego and tracks share one clock. reasons: an Explanation every 0.5 s; metadata["driver"]: the values behind each.
    metadata["route"]: [[x, y], ...] world metres, from the first pose to at least 60 m beyond the last.
    metadata["attempt"]: which of the seed's towns it is, the first that passes ``guard.faults``. metadata["dropped"]:
    tracks that a last check took out because they overlapped. Frames are drawn when they are read.
    Raises InputError.
    """
    return drawn(seed, duration_s).log(rig, look)


class TownSource:
    """Generated logs. "" is 110000-110009, "SEED" is one, "A-B" is all from A to B; "KIND/A-B" are scenarios of a
    kind and "scenarios" ten of each kind. Raises InputError."""

    kind = "town"
    takes_path = False

    def __init__(self, path: str = "") -> None:
        from drive_wm.datasets.town.scenarios import KINDS

        name, _, numbers = path.rpartition("/")
        if path == "scenarios":
            self.logs = {f"town-{kind}-{seed:06d}": (kind, seed) for kind in KINDS for seed in range(110_000, 110_010)}
            return
        if name and name not in KINDS:
            raise InputError(f"town:{path}: no scenario {name!r}; there are {', '.join(KINDS)}")
        prefix = f"town-{name}-" if name else "town-"
        self.logs = {f"{prefix}{seed:06d}": (name, seed) for seed in _seeds(path, numbers)}

    def log_ids(self) -> list[str]:
        return list(self.logs)

    def load(self, log_id: str) -> Log:
        if log_id not in self.logs:
            ids = self.log_ids()
            raise InputError(f"no log {log_id!r} here; this source holds {ids[0]} to {ids[-1]}")
        kind, seed = self.logs[log_id]
        if kind:
            from drive_wm.datasets.town.scenarios import scenario

            return scenario(kind, seed)
        return generate(seed)


def _seeds(path: str, numbers: str) -> range:
    first, _, last = (numbers or "110000-110009").partition("-")
    if not first.isdecimal() or not (last.isdecimal() or (not last and "-" not in numbers)):
        raise InputError(f"town:{path}: expected a seed or a range of seeds such as town:7 or town:110000-110009")
    seeds = range(int(first), int(last or first) + 1)
    if not seeds:
        raise InputError(f"town:{path}: the range is empty; its first seed must not be larger than its last")
    split_of(seeds[0]), split_of(seeds[-1])
    return seeds
