"""The driver's decision with its true causes: what it depends on by intervention, in the types of explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from drive_wm.datasets.town.causes import Effect, owner_id
from drive_wm.encoders.text import explanation_text
from drive_wm.types import Cause, Explanation

ROAD_KINDS = ("bend", "speed limit", "route")  # reasons that nobody can take out of the world


def by_intervention(reason: Explanation, effects: Sequence[Effect], things: Mapping[str, Cause],
                    light: str | None = None) -> Explanation:
    """``reason`` with the causes among ``effects``: first those that the driver named itself, then by their effect.

    things: what an agent or an obstacle is as a cause, by the id of its owner. light: the state of the light ahead.
    What only the road asks for stays, last; "free road" stays where there is nothing else.
    """
    true = list(dict.fromkeys(name for effect in effects for name in effect.ids))
    named = [replace(c, visible=things[owner_id(c.agent_id)].visible) if owner_id(c.agent_id) in things else c
             for c in reason.causes if c.agent_id and owner_id(c.agent_id) in true]
    told = {owner_id(str(c.agent_id)) for c in named}
    others = [_typed(name, things, light) for name in true if name not in told]
    causes = [*named, *(c for c in others if c is not None)]
    causes += [c for c in reason.causes if c.kind in ROAD_KINDS]
    made = replace(reason, causes=tuple(causes) or (Cause("free road"),))
    return replace(made, text=explanation_text(made))


def _typed(name: str, things: Mapping[str, Cause], light: str | None) -> Cause | None:
    if name.startswith("signal"):
        return Cause("red light", name, state=light)
    if name.startswith("stop"):
        return Cause("stop sign", name)
    return things.get(name)
