"""The model as one uses it: a tokenizer and a world model with the weights of one folder.

    model = DriveWM.from_pretrained("tiny")
    for step in model.rollout(clip, actions): ...
    plan = model.plan(clip, route); explanation = model.explain(scene, "Why?")
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from drive_wm.config import from_json, to_json
from drive_wm.datasets.clips import nearest_agents
from drive_wm.datasets.rigs import at_height
from drive_wm.decisions import agrees, course_of
from drive_wm.decoder.model import DecoderConfig, PictureDecoder
from drive_wm.encoders.actions import actions_of_bins
from drive_wm.geometry import integrate_actions
from drive_wm.reproject import Drawn, Reprojector, same_agents
from drive_wm.tokenizer.model import FrameTokenizer, TokenizerConfig
from drive_wm.types import (
    LATERAL,
    LONGITUDINAL,
    BoolArray,
    ByteArray,
    Clip,
    Explanation,
    FloatArray,
    InputError,
    Plan,
    Rig,
    Trajectory,
)
from drive_wm.world.decode import (
    Guidance,
    Sampling,
    Stream,
    answer_grammar,
    next_agents,
    next_step,
    plan_grammar,
    read_context,
    write_segment,
    write_segments,
)
from drive_wm.world.inputs import caption_ids, pixels_of, route_vector, steps_from_clips
from drive_wm.world.model import WorldConfig, WorldModel
from drive_wm.world.reasons import (
    MAX_CAUSES,
    MAX_TEXT_TOKENS,
    MOST_IDS,
    decision_ids,
    plan_ids,
    possible_causes,
    question_ids,
    read_about,
    read_answer,
    read_text,
)
from drive_wm.world.transformer import KeyValues, Transformer
from drive_wm.world.vocabulary import RANGES, special

FORMAT = "drive_wm.model@4"  # 1 had another prior, 2 no task expert, and that of 3 did not point at what it speaks of
PRETRAINED = Path(__file__).parent / "pretrained"
EXPERT = "expert."  # of the world model's weights; they have a file of their own
WHY = "Why are you doing this?"


@dataclass(frozen=True)
class ModelConfig:
    tokenizer: TokenizerConfig = TokenizerConfig()
    world: WorldConfig = WorldConfig()
    rate_hz: float = 2.0
    width: int = 112  # of the images it was trained on
    height: int = 64
    context: int = 4
    decoder: DecoderConfig | None = None  # of the picture decoder, where the weights hold one


@dataclass(frozen=True)
class GeneratedStep:
    """One imagined step. frames: camera -> (H, W, 3) uint8. agents (A, 12) in its rig frame, agents_valid (A,)."""

    index: int
    frames: Mapping[str, ByteArray]
    agents: FloatArray
    agents_valid: BoolArray
    layout: Mapping[str, ByteArray] | None
    digits: Any


# (step index from 1, agents (A, 12) in the rig frame of that step, agents_valid (A,)) -> what is known of that step
LayoutSource = Callable[[int, FloatArray, BoolArray], Drawn | None]


class Moment(Protocol):
    """What a question is about: the past, and the points ahead (8, 2) in the rig frame; a `scene.Scene` is one."""

    @property
    def context(self) -> Clip: ...

    @property
    def route(self) -> FloatArray: ...


class DriveWM:
    """Tokenizer and world model. Everything takes a seed; the same seed on the same machine gives the same bytes."""

    def __init__(self, config: ModelConfig, tokenizer: FrameTokenizer, world: WorldModel,
                 name: str = "unnamed", decoder: PictureDecoder | None = None) -> None:
        self.config, self.name = replace(config, decoder=decoder.config if decoder else None), name
        self.decoder = decoder.eval() if decoder else None
        self.tokenizer = tokenizer.eval()
        self.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch does not list it
        self.world = world.eval()
        self._reprojector: Reprojector | None = None

    # --- weights --------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, config: ModelConfig = ModelConfig(), seed: int = 0) -> DriveWM:
        """Random weights."""
        torch.manual_seed(seed)
        decoder = PictureDecoder(config.decoder) if config.decoder else None
        return cls(config, FrameTokenizer(config.tokenizer), WorldModel(config.world), decoder=decoder)

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "cpu") -> DriveWM:
        """A shipped name ("tiny"), a folder made by ``save_pretrained``, or a hub id ("owner/name")."""
        folder = find_checkpoint(name)
        try:
            meta = json.loads((folder / "config.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"{folder}: config.json cannot be read ({error}); "
                             "expected a folder of save_pretrained") from None
        if meta.get("format") != FORMAT:
            raise InputError(f"{folder}: format {meta.get('format')!r}, expected {FORMAT!r}; weights of another format "
                             "were made by another version of this package: train anew, or install that one")
        model = cls.create(from_json(ModelConfig, meta["model"]))
        for part, network in model.parts.items():
            load_weights(folder / f"{part}.safetensors", network, EXPERT if part == "world" else None)
        model.name = meta.get("name", folder.name)
        return model.to(device)

    def save_pretrained(self, folder: str | Path, card: str | None = None, name: str | None = None) -> Path:
        """Writes config.json, the weights of every part (bfloat16) and README.md, all or nothing."""
        from safetensors.torch import save_file

        folder = Path(folder)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for part, network in self.parts.items():
            halves = {k: v.detach().to(torch.bfloat16).cpu().contiguous() for k, v in network.state_dict().items()
                      if part != "world" or not k.startswith(EXPERT)}
            save_file(halves, str(temporary / f"{part}.safetensors"))
            (temporary / f"{part}.safetensors").chmod(0o644)  # the library lets nobody else read what it writes
        meta = {"format": FORMAT, "name": name or self.name, "model": to_json(self.config)}
        (temporary / "config.json").write_text(json.dumps(meta, indent=1))
        if card is not None:
            (temporary / "README.md").write_text(card)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        return folder

    @property
    def parts(self) -> dict[str, torch.nn.Module]:
        """The networks, as the files of a checkpoint are called; the expert is a part of the world model too."""
        return {"tokenizer": self.tokenizer, "world": self.world, "expert": self.world.expert,
                **({"decoder": self.decoder} if self.decoder else {})}

    def to(self, device: str) -> DriveWM:
        for network in self.parts.values():
            network.to(device)
        return self

    def compiled(self) -> DriveWM:
        """Compiles the world model's transformer, in place, and returns itself; on a GPU it runs as CUDA graphs.

        Each new length of the past is compiled until the window is full, so the first steps take minutes. Results agree
        to rounding, not to the bit. The weights and their names stay. Not measured on a GPU so far.
        """
        transformer, graphs = self.world.transformer, self.device.type == "cuda"
        run = torch.compile(partial(Transformer.forward, transformer), mode="reduce-overhead" if graphs else "default")

        def forward(*args: Any) -> tuple[Tensor, KeyValues]:
            if graphs:
                torch.compiler.cudagraph_mark_step_begin()
            hidden, keys = run(*args)
            if graphs:  # the next replay writes into the same memory, and keys are kept
                hidden, keys = hidden.clone(), [(k.clone(), v.clone()) for k, v in keys]
            return hidden, keys

        transformer.forward = forward  # type: ignore[method-assign, assignment]
        return self

    @property
    def device(self) -> torch.device:
        return next(self.world.parameters()).device

    def rig_for(self, rig: Rig) -> Rig:
        """The rig, every camera at the height the model was trained on and the width that keeps its proportions."""
        return at_height(rig, self.config.height)

    # --- use ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def tokens(self, clip: Clip) -> dict[str, Any]:
        """camera -> (T, h, w, K) token ids in [0, 4096)."""
        out = {}
        for camera in clip.rig.cameras:
            with self._autocast():
                digits = self.tokenizer.encode(pixels_of(clip.frames[camera.name], self.device))
            out[camera.name] = self.tokenizer.fsq.tokens(digits).cpu().numpy()
        return out

    @torch.no_grad()
    def decode_tokens(self, tokens: Any) -> ByteArray:
        """(T, h, w, K) token ids -> (T, H, W, 3) uint8."""
        return self.decode_digits(self.tokenizer.fsq.digits_of_tokens(torch.as_tensor(tokens, device=self.device)))

    @torch.no_grad()
    def decode_digits(self, digits: Any) -> ByteArray:
        """(T, h, w, D) FSQ digits -> (T, H, W, 3) uint8."""
        with self._autocast():
            return to_images(self.tokenizer.decode(torch.as_tensor(digits, device=self.device).long()))

    @torch.no_grad()
    def read(self, clip: Clip, prompt: str | None = None) -> Stream:
        """A clip of the past -> a scene to continue, to plan in and to ask about. The newest step is now."""
        slots = self.config.world.agents
        if clip.agents.shape[1] != slots:
            clip = nearest_agents(clip, slots, len(clip.timestamps_us) - 1)
        with self._autocast():
            steps = steps_from_clips([clip], self.tokenizer, self.device, slots)
            stream = read_context(self.world, caption_ids([prompt if prompt else clip.look], self.device), steps)
        stream.rig = clip.rig
        if clip.frames and clip.frames_valid[-1].all():
            stream.pictures = [clip.frames[name][-1:] for name in clip.rig.names]
        return stream

    @torch.no_grad()
    def rollout(self, clip: Clip, actions: FloatArray, *, seed: int = 0, sampling: Sampling = Sampling(),
                layout: LayoutSource | None = None, agents: tuple[FloatArray, BoolArray] | None = None,
                prompt: str | None = None) -> Iterator[GeneratedStep]:
        """Imagines a step for each action (N, 2) after the clip's last frame, and yields it as soon as it is made.

        agents: known future ones, (N, A, 12) and (N, A) in the slots of ``nearest_agents(clip, ...)``; None imagines
        them. layout: draws what is known of a step into its cameras; None goes without. sampling: its guidance is that
        of the first step.
        """
        actions = np.asarray(actions, dtype=np.float64)
        if actions.ndim != 2 or actions.shape[1] != 2 or not np.isfinite(actions).all():
            raise InputError("actions: expected finite (N, 2) of speed_mps and curvature_inv_m, "
                             f"got shape {actions.shape}")
        clip = nearest_agents(clip, self.config.world.agents, len(clip.timestamps_us) - 1)
        generator = torch.Generator().manual_seed(seed)
        stream = self.read(clip, prompt)
        for i, action in enumerate(actions):
            given = None if agents is None else (agents[0][i], agents[1][i])
            stream, step = self.advance(stream, action, i + 1, generator, sampling, layout, given)
            yield step

    @torch.no_grad()
    def advance(self, stream: Stream, action: FloatArray, index: int, generator: torch.Generator,
                sampling: Sampling = Sampling(), layout: LayoutSource | None = None,
                agents: tuple[FloatArray, BoolArray] | None = None) -> tuple[Stream, GeneratedStep]:
        """One step of ``rollout``: state first (the ego's move, then the agents), pixels after."""
        last, device, rig = stream.last, self.device, rig_of(stream)
        moved = integrate_actions(np.zeros(3), np.asarray(action)[None], float(last.dt_s[0]))
        act = torch.tensor(np.asarray(action), dtype=torch.float32, device=device).view(1, 1, 2)
        with self._autocast():
            if agents is None:
                ego_step = torch.from_numpy(moved).float().to(device)
                states = next_agents(self.world, stream, ego_step, sampling, generator)[:, None]
                valid = last.agents_valid
            else:
                states = torch.from_numpy(np.asarray(agents[0])).float().to(device)[None, None]
                valid = torch.from_numpy(np.asarray(agents[1])).to(device)[None, None]
            seen_agents, seen_valid = states[0, 0].double().cpu().numpy(), valid[0, 0].cpu().numpy()
            drawn = layout(index, seen_agents, seen_valid) if layout is not None else None
            before = last.agents[0, 0].double().cpu().numpy()
            tracked = last.agents_valid[0, 0].cpu().numpy() & seen_valid & same_agents(before, seen_agents)
            carried = self.carry(stream, moved, drawn, before, seen_agents, tracked)
            tokens, drawn_tokens = self.encoded(carried, last.grids), None
            if drawn is not None and sampling.guidance.layout != 1:  # what is not told the layout is carried without it
                tokens, drawn_tokens = self.encoded(self.carry(stream, moved), last.grids), tokens
            step = replace(
                last, actions=act, actions_valid=torch.ones(1, 1, dtype=torch.bool, device=device), agents=states,
                agents_valid=valid, noise=torch.zeros_like(last.noise), first_step=last.first_step + 1, masked=None,
                seen=torch.ones_like(last.seen),
                layout=None if drawn is None else [pixels_of(drawn.layout[c][None, None], device) for c in rig.names],
                carried=tokens, carried_drawn=drawn_tokens,
                layout_valid=torch.full((1,), drawn is not None, device=device))
            stream = next_step(self.world, stream, step, sampling.at(index), generator)
            frames = self.pictures(stream.last.digits[:, 0], last.grids, rig.names, carried, drawn)
        stream.pictures = frames
        named = {name: images[0] for name, images in zip(rig.names, frames)}
        digits = stream.last.digits[0, 0].cpu().numpy()
        return stream, GeneratedStep(index, named, seen_agents, seen_valid, drawn.layout if drawn else None, digits)

    def carry(self, stream: Stream, moves: FloatArray, drawn: Drawn | None = None, before: FloatArray | None = None,
              now: FloatArray | None = None, tracked: BoolArray | None = None) -> list[ByteArray]:
        """What the newest pictures of B futures show of their next: one (B, H, W, 3) uint8 a camera.

        moves: (B, 3) of each ego. The rest as in ``Reprojector.carry``.
        """
        last, rig = stream.last, rig_of(stream)
        pictures = stream.pictures or self.images(last.digits[:, 0], last.grids)
        if self._reprojector is None or self._reprojector.rig is not rig:
            self._reprojector = Reprojector(rig)
        made = [self._reprojector.carry({name: p[i] for name, p in zip(rig.names, pictures)}, move, drawn, before, now,
                                        tracked) for i, move in enumerate(moves)]
        return [np.stack([one[name] for one in made]) for name in rig.names]

    def encoded(self, pictures: list[ByteArray], grids: list[tuple[int, int]]) -> Tensor:
        """One (B, H, W, 3) uint8 a camera -> digits (B, 1, P, D); cameras of one size are encoded together."""
        out: dict[int, Tensor] = {}
        for members in by_size(grids):
            pixels = self._pixels([pictures[i] for i in members])
            digits = self.tokenizer.encode(pixels).flatten(1, 2)
            out |= dict(zip(members, digits.unflatten(0, (len(members), -1))))
        return torch.cat([out[i] for i in range(len(grids))], 1)[:, None]

    def pictures(self, digits: Tensor, grids: list[tuple[int, int]], names: Sequence[str], carried: list[ByteArray],
                 drawn: Drawn | None = None) -> list[ByteArray]:
        """Digits (B, P, D) of a step -> what they stand for, sharpened by what was carried to it, and by its layout.

        One (B, H, W, 3) uint8 a camera, as ``carried``; where there is no picture decoder, of the tokens alone.
        """
        if self.decoder is None:
            return self.images(digits, grids)
        parts, out = digits.split([r * c for r, c in grids], 1), dict[int, ByteArray]()
        for members in by_size(grids):
            decoded = self.tokenizer.decode(torch.cat([parts[i].unflatten(1, grids[i]) for i in members]))
            layout = torch.zeros_like(decoded)
            if drawn is not None:
                layout = self._pixels([np.broadcast_to(drawn.layout[names[i]], carried[i].shape) for i in members])
            known = torch.full((len(decoded),), drawn is not None, device=self.device)
            made = self.decoder(decoded, self._pixels([carried[i] for i in members]), layout, known)
            out |= dict(zip(members, to_images(made).reshape(len(members), *carried[members[0]].shape)))
        return [out[i] for i in range(len(grids))]

    def _pixels(self, pictures: list[ByteArray]) -> Tensor:
        """Pictures of one size, (B, H, W, 3) each -> (N * B, 3, H, W)."""
        return pixels_of(np.concatenate(pictures), self.device).contiguous(memory_format=torch.channels_last)

    def images(self, digits: Tensor, grids: list[tuple[int, int]]) -> list[ByteArray]:
        """(N, P, D) -> one (N, H, W, 3) uint8 a camera; cameras of one size are decoded together."""
        parts = digits.split([r * c for r, c in grids], 1)
        out: dict[int, ByteArray] = {}
        for members in by_size(grids):
            stacked = torch.cat([parts[i].unflatten(1, grids[i]) for i in members])
            images = to_images(self.tokenizer.decode(stacked))
            out |= dict(zip(members, images.reshape(len(members), len(digits), *images.shape[1:])))
        return [out[i] for i in range(len(grids))]

    @torch.no_grad()
    def plan(self, clip: Clip, route: FloatArray | None = None, *, decision: tuple[str, str] | None = None,
             stream: Stream | None = None, seed: int = 0, temperature: float = 0.0) -> Plan:
        """The ego's next actions and where they lead. route: (8, 2) points ahead in the rig frame, or None.

        decision: (longitudinal, lateral) that it shall carry out, such as ("stop", "keep"); None leaves it free.
        """
        stream = stream or self.read(clip)
        told = decision_ids(*decision) if decision else []
        with self._autocast():
            ids = write_segment(self.world, stream, [*told, special("<plan>")], self._route(clip, route), plan_grammar,
                                2 * self.config.world.plan_steps, temperature=temperature,
                                generator=torch.Generator().manual_seed(seed))
        first = torch.tensor([RANGES["future_speed"].start, RANGES["future_curvature"].start])
        actions = actions_of_bins(torch.tensor(ids).view(-1, 2) - first).numpy()
        times = np.arange(1, len(actions) + 1) / clip.rate_hz
        return Plan(Trajectory(times, integrate_actions(np.zeros(3), actions, 1 / clip.rate_hz)), actions=actions)

    @torch.no_grad()
    def explain(self, scene: Clip | Moment, question: str = WHY, route: FloatArray | None = None, *,
                plan: Plan | None = None, before_plan: bool = False, stream: Stream | None = None, seed: int = 0,
                temperature: float = 0.0) -> Explanation:
        """The model's decision, its typed causes, and the answer to a question about the scene's last moment.

        The decision is that of ``plan``, by default the one that the model makes here, so it is post hoc, and it can
        only say what the plan looks like (``drive_wm.decisions``). With ``before_plan`` it is made first,
        of all that there are, and ``DriveWM.plan(decision=...)`` carries it out. What does not ask for a
        decision, such as "How many cars do you see?", is answered in ``text`` beside it. scene: a `scene.Scene`, whose
        route is taken, or a clip of the past.
        """
        clip, route = self._asked_of(scene, route)
        stream = stream or self.read(clip)
        opening: list[int] = []
        possible: Sequence[str] = LONGITUDINAL
        sides: Sequence[str] = LATERAL
        if not before_plan:
            made = plan or self.plan(clip, route, stream=stream, seed=seed, temperature=temperature)
            if made.actions is None:
                raise InputError("the plan has no actions; only a plan of speeds and curvatures can be explained")
            opening = plan_ids(made.actions)
            course, side = course_of(made.actions, made.trajectory, _speed(clip), route)
            possible, sides = [word for word in LONGITUDINAL if agrees(word, course)], [side]
        agents, names = _slots(clip)
        generator = torch.Generator().manual_seed(seed)

        def written(question: str, *forms: str) -> list[int]:
            with self._autocast():
                return write_segment(self.world, stream, opening + question_ids(question), self._route(clip, route),
                                     answer_grammar(agents, MAX_CAUSES, MAX_TEXT_TOKENS, forms=forms,
                                                    longitudinal=possible, lateral=sides),
                                     MOST_IDS, temperature=temperature, generator=generator)

        ids = written(question, "<decision>", "<causes>")
        if ids[0] == special("<decision>"):
            return replace(read_answer(ids, question, clip.agents[-1], names), post_hoc=not before_plan)
        made_so = read_answer(written(WHY, "<decision>"), question, clip.agents[-1], names)
        return replace(made_so, text=read_text(ids), about=read_about(ids, names), post_hoc=not before_plan)

    @torch.no_grad()
    def answers(self, scene: Clip | Moment, questions: Sequence[str], route: FloatArray | None = None, *,
                stream: Stream | None = None, seed: int = 0, temperature: float = 0.0) -> list[str]:
        """The words alone, of many questions about one moment at once; see ``explain``."""
        clip, route = self._asked_of(scene, route)
        agents, names = _slots(clip)
        with self._autocast():
            written = write_segments(self.world, stream or self.read(clip), [question_ids(q) for q in questions],
                                     self._route(clip, route), answer_grammar(agents, MAX_CAUSES, MAX_TEXT_TOKENS),
                                     MOST_IDS, temperature=temperature, generator=torch.Generator().manual_seed(seed))
        return [read_text(ids) if ids[0] == special("<causes>") else
                read_answer(ids, question, clip.agents[-1], names).text for ids, question in zip(written, questions)]

    def _asked_of(self, scene: Clip | Moment, route: FloatArray | None) -> tuple[Clip, FloatArray | None]:
        """The clip with its agents in slots, and the route."""
        clip = scene if isinstance(scene, Clip) else scene.context
        route = scene.route if route is None and not isinstance(scene, Clip) else route
        if clip.agents.shape[1] != self.config.world.agents:
            clip = nearest_agents(clip, self.config.world.agents, len(clip.timestamps_us) - 1)
        return clip, route

    def _route(self, clip: Clip, route: FloatArray | None) -> Tensor:
        return torch.from_numpy(route_vector(route, _speed(clip))).to(self.device)[None]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)


def _slots(clip: Clip) -> tuple[list[tuple[str, ...] | None], tuple[str, ...]]:
    """What the agent of each slot can be a cause of now, and its id; None and "" where a slot is empty."""
    there = clip.agents_valid[-1]
    return possible_causes(clip.agents[-1], there), tuple(i if v else "" for i, v in zip(clip.agent_ids, there))


def _speed(clip: Clip) -> float:
    """Metres a second now, 0 where it is not known."""
    return float(clip.actions[-1, 0]) if len(clip.actions) and clip.actions_valid[-1] else 0.0


def by_size(grids: list[tuple[int, int]]) -> list[list[int]]:
    """Indices of the cameras of each size."""
    return [[i for i, other in enumerate(grids) if other == grid] for grid in dict.fromkeys(grids)]


def rig_of(stream: Stream) -> Rig:
    if stream.rig is None:
        raise InputError("this stream has no rig; make it with DriveWM.read")
    return stream.rig


def to_images(pixels: Tensor) -> ByteArray:
    """(..., 3, H, W) in [0, 1] -> (..., H, W, 3) uint8."""
    return (pixels.float().clamp(0, 1) * 255 + 0.5).to(torch.uint8).movedim(-3, -1).cpu().numpy()


def load_weights(path: Path, module: torch.nn.Module, apart: str | None = None) -> None:
    """Fills a module from safetensors; raises InputError for a missing, damaged or foreign file.

    apart: the names that begin so are not in this file, and stay as they are.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = module.load_state_dict(load_file(str(path)), strict=False)
        odd = [*found.unexpected_keys, *(k for k in found.missing_keys if apart is None or not k.startswith(apart))]
        if odd:
            raise RuntimeError(f"{len(odd)} names do not fit, such as {odd[0]}")
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: the weights cannot be loaded ({str(error).splitlines()[0]}); the file is damaged or "
                         "belongs to another configuration; install it anew") from None


def find_checkpoint(name: str | Path) -> Path:
    """A folder, a shipped name, or a hub id that is downloaded; raises InputError saying what there is."""
    if (Path(name) / "config.json").is_file():
        return Path(name)
    shipped: list[str] = []
    if PRETRAINED.is_dir():
        shipped = sorted(p.name for p in PRETRAINED.iterdir() if (p / "config.json").exists())
    if str(name) in shipped:
        return PRETRAINED / str(name)
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")) and not Path(name).exists():
        return _download(str(name))
    raise InputError(f"no checkpoint {str(name)!r}: expected a shipped name "
                     f"({', '.join(shipped) or 'none are installed'}), "
                     "a folder with config.json, or a hub id such as owner/name")


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"hub id {hub_id!r} cannot be fetched ({type(error).__name__}); "
                         "check the name and the network, or give a folder") from None


__all__ = ["DriveWM", "GeneratedStep", "Guidance", "ModelConfig", "Sampling", "find_checkpoint"]
