"""The task expert: weights of its own for what stands at the end of a sequence, plans, decisions, causes and words.

It attends to the keys and values that the world model left of what it has read, to the agents of the last step, which
it embeds anew with the pointers to their slots and with the words that people have for them (to point at a slot one
must see which it is; to speak of a red car one must know that it is called so), and to its own segment. A pointer in a
segment stands for the agent itself, read or said: who has red and car in it is found by a question's red and car. The
world model never attends to any of this (a mixture of transformers, as in pi0 and BAGEL). So plans and words can be
taught, and taught anew, without changing one generated frame.
Axes: B segments, N ids of each, A agents, d width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from drive_wm.encoders import agents as agent_codec
from drive_wm.encoders.words import agent_words
from drive_wm.types import InputError
from drive_wm.world.transformer import KeyValues, Span, Transformer, TransformerConfig, joined
from drive_wm.world.vocabulary import RANGES, TABLE_SIZE

ROUTE_POINTS = 8


@dataclass
class Segment:
    """A task at the end of a sequence. ids: (B, N) of the vocabulary; loss_on: (B, N) where the NEXT id is learned.

    of: (B,) the sequence of the batch that each stands at the end of; None: each at the end of its own.
    """

    ids: Tensor
    loss_on: Tensor | None = None
    of: Tensor | None = None


@dataclass
class Seen:
    """What stands before a segment. keys: of the world model's positions, and behind them of the agents.

    agents: (B, A, d), which the pointers of a segment stand for. route: (B, 2 * ROUTE_POINTS + 2): points ahead in the
    rig frame / 20 m, whether there is a route, the speed / 10. time: of the segment's first id.
    """

    keys: KeyValues
    agents: Tensor
    route: Tensor
    time: int

    def of(self, rows: Tensor) -> Seen:
        """That of these rows of the batch, (M,)."""
        return Seen([(k[rows], v[rows]) for k, v in self.keys], self.agents[rows], self.route[rows], self.time)


class TaskExpert(nn.Module):
    """Ids of a segment, behind a past that was read -> the hidden states that say the next id of each."""

    def __init__(self, config: TransformerConfig, world: TransformerConfig) -> None:
        super().__init__()
        for name in ("layers", "kv_heads", "head", "rope_pairs", "rope_base"):
            if getattr(config, name) != getattr(world, name):
                raise InputError(f"the expert's {name} must be the world model's, whose keys it reads: got "
                                 f"{getattr(config, name)}, expected {getattr(world, name)}")
        d = config.width
        self.table = nn.Embedding(TABLE_SIZE, d)
        self.route = nn.Sequential(nn.Linear(2 * ROUTE_POINTS + 2, d), nn.GELU(), nn.Linear(d, d))
        self.agent = nn.Sequential(nn.Linear(agent_codec.FEATURES, d), nn.GELU(), nn.Linear(d, d))
        self.on_route = nn.Sequential(nn.Linear(agent_codec.ROUTE_FEATURES, d), nn.GELU(), nn.Linear(d, d))
        self.nobody = nn.Parameter(torch.zeros(d))
        self.place = nn.Linear(d, d, bias=False)  # what an agent is among the others, added to what it is alone
        self.transformer = Transformer(config)
        self.bias = nn.Parameter(torch.zeros(TABLE_SIZE))
        nn.init.zeros_(self.place.weight)
        nn.init.zeros_(self.on_route[2].weight)  # type: ignore[arg-type]  # a module's attribute
        for weight in (self.table.weight, self.nobody):
            nn.init.normal_(weight, std=0.1)

    def look(self, agents: Tensor, valid: Tensor, route: Tensor, time: int, past: KeyValues | None) -> Seen:
        """The keys ``past`` of the world model, and behind them the agents (B, A, 12) of its last step, and where they
        are on the route (B, F); see ``Seen``."""
        count, first = agents.shape[1], RANGES["pointer"].start
        x = self.agent(agent_codec.agent_features(agents).to(self.nobody.dtype))
        x = x + self.table(agent_words(agents) + RANGES["text"].start).sum(-2)
        points, known = route[:, :2 * ROUTE_POINTS].unflatten(-1, (-1, 2)) * 20, route[:, 2 * ROUTE_POINTS]
        lane = self.on_route(agent_codec.route_features(agents, points).to(self.nobody.dtype))
        x = x + lane * known[:, None, None]
        x = torch.where(valid[..., None], x, self.nobody.to(x.dtype)) + self.table.weight[first:first + count]
        positions = torch.tensor([time, -2, 0], device=agents.device).expand(count, 3)
        hidden, keys = self.transformer(x, positions, [Span(0, count)], past)
        return Seen(joined(past, keys), x + self.place(hidden), route, time)

    def head(self, hidden: Tensor, seen: Seen | None = None) -> Tensor:
        """(B, N, d) -> logits (B, N, TABLE_SIZE). By the table itself, so that a word attended to can be said, and of
        pointers by the agents; without ``seen`` they are not to be used."""
        logits = nn.functional.linear(hidden, self.table.weight.to(hidden.dtype), self.bias.to(hidden.dtype))
        if seen is None:
            return logits
        first, last = RANGES["pointer"].start, RANGES["pointer"].start + seen.agents.shape[1]
        agents = hidden @ seen.agents.to(hidden.dtype).transpose(1, 2)
        return torch.cat([logits[..., :first], agents + self.bias[first:last], logits[..., last:]], -1)

    def forward(self, segment: Segment, seen: Seen) -> tuple[Tensor, Seen]:
        """-> hidden (B, N, d), and what is seen behind the segment. The route is added to the first position."""
        seen = seen if segment.of is None else seen.of(segment.of)
        x = self._embed(segment.ids, seen)
        route = self.route(seen.route.to(x.dtype))
        return self._run(torch.cat([x[:, :1] + route[:, None], x[:, 1:]], 1), seen)

    def go_on(self, ids: Tensor, seen: Seen, shared: int = 0) -> tuple[Tensor, Seen]:
        """The same for the next ids (B, N) of the segments that ``seen`` ends with.

        shared: ``seen`` is of batch 1, its first positions belong to all B, and behind them each sees its own alone.
        """
        return self._run(self._embed(ids, seen), seen, shared)

    def _embed(self, ids: Tensor, seen: Seen) -> Tensor:
        slots = ids - RANGES["pointer"].start
        named = (slots >= 0) & (slots < seen.agents.shape[1])
        agents = seen.agents.expand(len(ids), -1, -1)
        agents = agents.gather(1, (slots * named)[..., None].expand(-1, -1, agents.shape[2]))
        return torch.where(named[..., None], agents, self.table(ids))

    def _run(self, x: Tensor, seen: Seen, shared: int = 0) -> tuple[Tensor, Seen]:
        """Ids follow each other on the axis of time, at row -3."""
        count, length = x.shape[:2]
        times = seen.time + torch.arange(length, device=x.device)
        positions = torch.stack([times, torch.full_like(times, -3), torch.zeros_like(times)], -1)
        span = Span(0, length, causal=True)
        if shared:
            span = Span(0, count * length, causal=True, futures=count, shared=shared)
            x, positions = x.reshape(1, count * length, -1), positions.repeat(count, 1)
        hidden, keys = self.transformer(x, positions, [span], seen.keys)
        return hidden.view(count, length, -1), replace(seen, keys=joined(seen.keys, keys), time=seen.time + length)
