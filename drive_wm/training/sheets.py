"""Sample sheets: what the model makes of a few clips, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from drive_wm.datasets.clips import part_of
from drive_wm.datasets.shards import Sample
from drive_wm.media import contact_sheet, tile_cameras, write_png
from drive_wm.model import DriveWM, LayoutSource
from drive_wm.reproject import Drawn
from drive_wm.types import ByteArray


def at(frames: Mapping[str, ByteArray], names: tuple[str, ...], step: int) -> ByteArray:
    """All cameras at one step, in one picture."""
    return tile_cameras({name: frames[name][step] for name in names})


def tokenizer_sheet(model: DriveWM, samples: list[Sample], path: Path) -> None:
    """Rows: truth, reconstruction; one pair a sample."""
    rows, labels = [], []
    for sample in samples:
        clip = part_of(sample.clip, 0, 1)
        made = {name: model.decode_tokens(tokens) for name, tokens in model.tokens(clip).items()}
        rows += [[at(clip.frames, clip.rig.names, 0)], [at(made, clip.rig.names, 0)]]
        labels += ["truth", "tokens"]
    write_png(path, contact_sheet(rows, labels, [sample.clip.rig.name for sample in samples[:1]]))


def recorded_layout(layout: Mapping[str, ByteArray], now: int) -> LayoutSource:
    """The clip's own layouts after step ``now``."""
    return lambda i, *_: Drawn({k: v[now + i] for k, v in layout.items()})


def world_sheet(model: DriveWM, samples: list[Sample], path: Path, layout: bool = True) -> None:
    """Rows: truth and rollout under the true actions and the given layout; columns: seconds ahead."""
    rows, labels, columns = [], [], []
    for sample in samples[:2]:
        clip = part_of(sample.clip, 0, model.config.world.window)
        context = min(model.config.context, len(clip.timestamps_us) - 1)
        future = range(context, len(clip.timestamps_us))
        given = recorded_layout(clip.layout, context - 1) if layout and clip.layout is not None else None
        steps = list(model.rollout(part_of(clip, 0, context), clip.actions[context - 1:], layout=given,
                                   agents=(clip.agents[context:], clip.agents_valid[context:])))
        truth = clip.frames or {name: model.decode_digits(digits) for name, digits in (clip.digits or {}).items()}
        rows.append([at(truth, clip.rig.names, t) for t in future])
        rows.append([tile_cameras({n: s.frames[n] for n in clip.rig.names}) for s in steps])
        labels += ["truth", "layout given" if given else "no layout"]
        columns = [f"{(t - context + 1) / clip.rate_hz:g} s" for t in future]
    write_png(path, contact_sheet(rows, labels, columns))
