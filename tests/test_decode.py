"""Decoding: guidance against what training drops, the likeliest levels, and one answer from every attention kernel."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drive_wm.datasets.rigs import dash
from drive_wm.encoders.rays import ray_features
from drive_wm.model import DriveWM, Guidance, ModelConfig, Sampling
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.training.objectives import ObjectiveConfig, drop_caption, drop_conditions
from drive_wm.types import Clip, InputError
from drive_wm.world import decode
from drive_wm.world.decode import FrameLogits, Stream, next_digits, next_step, read_context, without
from drive_wm.world.inputs import caption_ids
from drive_wm.world.model import Steps, WorldConfig, WorldModel
from drive_wm.world.transformer import KERNELS, Attention, Span, TransformerConfig, attend, rotary, use_attention

CONFIG = WorldConfig(TransformerConfig(width=64, layers=2, heads=4, kv_heads=2, mlp=96, rope_pairs=(3, 2, 3)),
                     agents=4, window=4)
CPU = torch.device("cpu")


def scattered(module: torch.nn.Module) -> None:
    """Zero-initialised outputs would hide every difference."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)


@pytest.fixture(scope="module")
def world() -> WorldModel:
    made = WorldModel(CONFIG)
    scattered(made)
    return made.eval()


def some_steps(steps: int = 3, seed: int = 0) -> Steps:
    """Everything that can be told is told, and differs."""
    g = torch.Generator().manual_seed(seed)
    rays, cells, grids = ray_features(dash(64, 32))
    p = len(rays)

    def digits() -> Tensor:
        return torch.randint(0, 8, (1, steps, p, 12), generator=g)

    return Steps(
        digits=digits(), masked=None, seen=torch.ones(1, steps, p, dtype=torch.bool), noise=torch.zeros(1, steps),
        actions=torch.rand(1, steps, 2, generator=g) * torch.tensor([10.0, 0.1]),
        actions_valid=torch.ones(1, steps, dtype=torch.bool), dt_s=torch.tensor([0.5]),
        agents=torch.rand(1, steps, 4, 12, generator=g) * 5,
        agents_valid=torch.ones(1, steps, 4, dtype=torch.bool), layout=[torch.rand(1, steps, 3, 32, 64, generator=g)],
        layout_valid=torch.ones(1, dtype=torch.bool), rays=torch.from_numpy(rays), cells=torch.from_numpy(cells),
        grids=grids, carried=digits(), carried_drawn=digits())


@pytest.fixture(scope="module")
def stream(world: WorldModel) -> Stream:
    with torch.no_grad():
        return read_context(world, caption_ids(["rain night"], CPU), some_steps().part(0, 2))


NEXT = some_steps().part(2, 3)
NOTHING = ObjectiveConfig(drop_action=0, drop_layout=0, drop_agents=0, drop_carried=0)


def first_logits(world: WorldModel, stream: Stream, step: Steps, guidance: Guidance, done: float = 1.0) -> Tensor:
    with torch.no_grad():
        logits_of = FrameLogits(world, stream, step, guidance)
        return torch.stack(logits_of(torch.zeros_like(step.digits), logits_of.unknown, done))


# --- guidance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("modality", "config"), [("action", replace(NOTHING, drop_action=1.0)),
                                                  ("layout", replace(NOTHING, drop_layout=1.0))])
def test_a_modality_is_dropped_as_training_drops_it(modality: str, config: ObjectiveConfig) -> None:
    steps = some_steps()
    trained = drop_conditions(steps, config).part(2, 3)
    dropped = without(modality, steps.part(2, 3), steps.part(1, 2))
    assert torch.equal(dropped.actions_valid, trained.actions_valid)
    assert torch.equal(dropped.layout_valid, trained.layout_valid)
    used = [s.carried_drawn if bool(s.layout_valid) and s.carried_drawn is not None else s.carried
            for s in (dropped, trained)]
    assert used[0] is not None and used[1] is not None and torch.equal(used[0], used[1])
    assert torch.equal(caption_ids([None], CPU), drop_caption(caption_ids(["rain night"], CPU), 1.0))


@pytest.mark.parametrize("modality", ["action", "layout", "caption"])
def test_guidance_moves_away_from_what_is_said_without_a_modality(world: WorldModel, stream: Stream, modality: str
                                                                  ) -> None:
    told = first_logits(world, stream, NEXT, Guidance())
    blind = stream
    if modality == "caption":
        cache = stream.cache.copy()
        with torch.no_grad():
            cache.prefix = world.caption(caption_ids([None], CPU))
        blind = replace(stream, cache=cache)
    dropped = first_logits(world, blind, without(modality, NEXT, stream.last), Guidance())
    assert not torch.allclose(told, dropped, atol=1e-3)
    guided = first_logits(world, stream, NEXT, Guidance(**{modality: 3.0}))
    assert torch.allclose(guided, told + 2 * (told - dropped), atol=1e-3)
    rising = first_logits(world, stream, NEXT, Guidance(**{modality: 3.0}, rise=1.0), done=0.25)
    assert torch.allclose(rising, told + 0.5 * (told - dropped), atol=1e-3)


def test_guided_modalities_add_up(world: WorldModel, stream: Stream) -> None:
    told = first_logits(world, stream, NEXT, Guidance())
    each = [first_logits(world, stream, NEXT, Guidance(**{m: 2.0})) - told for m in decode.MODALITIES]
    assert torch.allclose(first_logits(world, stream, NEXT, Guidance(2.0, 2.0, 2.0)), told + sum(each), atol=1e-3)


def test_what_is_not_guided_costs_nothing(world: WorldModel, stream: Stream) -> None:
    unlaid = replace(NEXT, layout=None, layout_valid=torch.zeros(1, dtype=torch.bool))
    assert FrameLogits(world, stream, NEXT, Guidance(rise=1.0)).weights == {}
    assert FrameLogits(world, stream, unlaid, Guidance(layout=2.0)).weights == {}
    assert list(FrameLogits(world, stream, NEXT, Guidance(action=0.0, layout=2.0)).weights) == ["action", "layout"]


@pytest.mark.parametrize("sampling", [Sampling(passes=3), Sampling(raster=True)])
def test_a_guided_step_of_futures_is_that_of_each(world: WorldModel, stream: Stream, sampling: Sampling) -> None:
    wide = Stream(stream.cache.expand(2), stream.last, stream.frames.expand(2, -1, -1),
                  stream.hidden.expand(2, -1, -1))

    names = ("digits", "seen", "noise", "actions", "actions_valid", "dt_s", "agents", "agents_valid", "layout_valid",
             "carried", "carried_drawn")

    def doubled(step: Steps) -> Steps:
        twice: dict[str, Any] = {name: torch.cat([getattr(step, name)] * 2) for name in names}
        return replace(step, layout=[torch.cat([x, x]) for x in step.layout or []], **twice)

    last, step = doubled(stream.last), doubled(NEXT)
    greedy = replace(sampling, temperature=0.0, order_temperature=0.0, guidance=Guidance(2.0, 2.0, 2.0))
    with torch.no_grad():
        one = next_digits(world, stream, NEXT, greedy, torch.Generator())
        two = next_digits(world, replace(wide, last=last), step, greedy, torch.Generator())
    assert torch.equal(two, torch.cat([one, one]))


def test_guidance_fades_over_a_rollout() -> None:
    fading = Sampling(guidance=Guidance(action=3.0, caption=0.0, decay=0.5))
    assert fading.at(1) == fading
    third = fading.at(3).guidance
    assert (third.action, third.layout, third.caption) == (1.5, 1.0, 0.75)


def test_guidance_is_read_from_words() -> None:
    assert Guidance.parse("action=2,layout=1.5") == Guidance(action=2.0, layout=1.5)
    assert Guidance.parse("caption=3, rise=1") == Guidance(caption=3.0, rise=1.0)
    for bad in ("actoin=2", "action", "action=much", ""):
        with pytest.raises(InputError, match="for example action=2,layout=1.5"):
            Guidance.parse(bad)
    for bad in ("action=-1", "decay=nan"):
        with pytest.raises(InputError, match="finite values >= 0"):
            Guidance.parse(bad)


# --- sampling -----------------------------------------------------------------------------------------------------


def test_top_k_draws_the_likeliest_alone() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.9]).expand(2000, 4)
    generator = torch.Generator().manual_seed(0)
    drawn = {k: set(decode._draw(logits, 5.0, generator, k).tolist()) for k in (0, 1, 2, 3, 4)}
    assert drawn == {0: {0, 1, 2, 3}, 1: {1}, 2: {1, 3}, 3: {1, 2, 3}, 4: {0, 1, 2, 3}}
    with pytest.raises(InputError, match="top_k >= 0"):
        Sampling(top_k=-1)


def test_top_k_of_one_is_greedy(world: WorldModel, stream: Stream) -> None:
    hot, cold = Sampling(passes=1, temperature=5.0, top_k=1), Sampling(passes=1, temperature=0.0)
    with torch.no_grad():
        a, b = (next_digits(world, stream, NEXT, s, torch.Generator().manual_seed(0)) for s in (hot, cold))
    assert torch.equal(a, b)


def test_a_step_that_is_not_read_has_the_same_frames(world: WorldModel, stream: Stream) -> None:
    with torch.no_grad():
        alone = next_digits(world, stream, NEXT, Sampling(), torch.Generator().manual_seed(3))
        read = next_step(world, stream, NEXT, Sampling(), torch.Generator().manual_seed(3))
    assert torch.equal(alone, read.last.digits)


# --- attention ----------------------------------------------------------------------------------------------------


def by_definition(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """In float64, head by head, row by row."""
    batch, s, heads, width = q.shape
    n, ratio = k.shape[1], heads // k.shape[2]
    out = torch.zeros(batch, s, heads, width, dtype=torch.float64)
    for b, i, h in np.ndindex(batch, s, heads):
        last = n - s + i + 1 if causal else n
        keys, values = k[b, :last, h // ratio].double(), v[b, :last, h // ratio].double()
        out[b, i, h] = torch.softmax(keys @ q[b, i, h].double() / width**0.5, 0) @ values
    return out.flatten(2)


def some_attention(s: int, n: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, m, h, 16, generator=g).bfloat16().to(device) for m, h in ((s, 4), (n, 2), (n, 2)))
    return q, k, v


def flex_or_skip(call: Callable[[], Tensor]) -> Tensor:
    try:
        return call()
    except Exception as error:  # what the compiler lacks differs from machine to machine
        pytest.skip(f"FlexAttention does not compile here: {type(error).__name__} {str(error).splitlines()[0]}")


@pytest.mark.parametrize("kernel", ["matmul", "sdpa", pytest.param("flex", marks=pytest.mark.slow)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [(5, 5), (3, 17), (130, 300)])  # the last is past the size taken in one batch
def test_attention_is_the_same_by_every_kernel(kernel: str, causal: bool, size: tuple[int, int]) -> None:
    q, k, v = some_attention(*size)
    expected = by_definition(q, k, v, causal)
    with torch.no_grad(), use_attention(kernel):
        if kernel == "flex":
            made = flex_or_skip(lambda: attend(q, k, v, causal))
        else:
            made = attend(q, k, v, causal)
    assert made.dtype == torch.bfloat16
    assert torch.allclose(made.double(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kernel", ["matmul", "sdpa", "flex", "flash"])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_same_on_a_gpu(kernel: str, causal: bool) -> None:
    if kernel == "flash":
        pytest.importorskip("flash_attn")
    q, k, v = some_attention(130, 300, "cuda")
    with torch.no_grad(), use_attention(kernel):
        made = attend(q, k, v, causal)
    expected = by_definition(q.cpu(), k.cpu(), v.cpu(), causal)
    assert torch.allclose(made.cpu().double(), expected, rtol=1e-2, atol=1e-2)


def test_large_products_have_the_gradients_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for whole in (0, 2**40):
        monkeypatch.setattr("drive_wm.world.transformer.WHOLE", whole)
        inputs = [x.requires_grad_() for x in some_attention(20, 40)]
        with torch.autocast("cpu", torch.bfloat16):
            out = attend(inputs[0], inputs[1], inputs[2], causal=True)
        made.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*made))


def test_the_kernel_is_chosen_for_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = Attention(CONFIG.transformer)
    scattered(attention)
    x, (cos, sin) = torch.randn(1, 6, 64), rotary(CONFIG.transformer, torch.arange(18).view(6, 3))
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return fused(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    plain = attention(x, cos, sin, [Span(0, 6)], None)[0]
    with pytest.raises(ZeroDivisionError), use_attention("sdpa"):
        assert torch.allclose(attention(x, cos, sin, [Span(0, 6)], None)[0], plain, atol=1e-4)
        raise ZeroDivisionError
    attention(x, cos, sin, [Span(0, 6)], None)
    assert len(calls) == 1


def test_a_kernel_that_is_not_there_says_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="expected one of auto, matmul"), use_attention("fast"):
        pass
    with use_attention("flex"), pytest.raises(InputError, match="no gradients on a CPU"):
        q, k, v = some_attention(3, 3)
        attend(q.requires_grad_(), k, v)
    monkeypatch.setitem(__import__("sys").modules, "flash_attn", None)
    with pytest.raises(InputError, match=r'pip install "drive-wm\[flash\]"'), use_attention("flash"):
        pass
    assert KERNELS[0] == "auto"


# --- the model ----------------------------------------------------------------------------------------------------


def small_model() -> tuple[DriveWM, Clip]:
    rig = dash(64, 32)
    model = DriveWM.create(ModelConfig(TokenizerConfig(channels=(8, 8, 8, 8), encoder_blocks=1, decoder_blocks=1),
                                       CONFIG, width=64, height=32, context=2))
    scattered(model.world)
    rng = np.random.default_rng(0)
    name = rig.names[0]
    clip = Clip("c", rig, 2.0, np.array([0, 500_000]), {name: rng.integers(0, 255, (2, 32, 64, 3), np.uint8)},
                np.ones((2, 1), bool), np.tile(np.eye(4), (2, 1, 1)), np.ones(2, bool), np.array([[3.0, 0.0]]),
                np.ones(1, bool), np.zeros((2, 0, 12)), np.zeros((2, 0), bool), ())
    return model, clip


def test_a_rollout_is_guided(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = small_model()
    actions = np.array([[5.0, 0.05], [5.0, 0.05]])
    plain, off, guided = ([s.digits for s in model.rollout(clip, actions, sampling=Sampling(guidance=g), prompt="rain")]
                          for g in (Guidance(), Guidance(rise=2.0, decay=0.1), Guidance(action=4.0, caption=4.0)))
    assert all(np.array_equal(a, b) for a, b in zip(plain, off))
    assert not np.array_equal(plain[0], guided[0])


@pytest.mark.slow
def test_a_compiled_model_answers_the_same() -> None:
    model, clip = small_model()
    names = list(model.world.state_dict())
    plain = model.read(clip).hidden
    try:
        made = model.compiled().read(clip).hidden
    except Exception as error:  # what the compiler lacks differs from machine to machine
        pytest.skip(f"torch.compile does not run here: {type(error).__name__} {str(error).splitlines()[0]}")
    assert torch.allclose(made.float(), plain.float(), atol=2e-2, rtol=2e-2)
    assert list(model.world.state_dict()) == names
