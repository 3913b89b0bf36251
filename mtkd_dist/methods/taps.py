"""Feature taps: what a submodule of any network puts out, by the name that `named_modules()` gives it.

Names are those of the network itself, without what it is wrapped in (DDP, `torch.compile`, precision, value range).
`early`, `middle` and `late` are short for the last blocks of the three thirds of any network's body: the places where
FAKD compares features (its "features 1, 2, 3").
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LEVELS = ("early", "middle", "late")
LARGEST_WINDOW = 64
"""Networks pad images to multiples of at most this."""
LISTED = 12

_WRAPPERS = ("network", "module", "_orig_mod")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class TapError(ValueError):
    """A tap that does not exist or whose features cannot be used; the message says which can."""


def core(network: nn.Module) -> nn.Module:
    """The network inside the modules that only wrap one."""
    while True:
        children = dict(network.named_children())
        if len(children) != 1 or (name := next(iter(children))) not in _WRAPPERS:
            return network
        network = children[name]


def body_blocks(network: nn.Module) -> list[str]:
    """Names of the blocks that a network's body is made of, in order: `body.0`, ... of EDSR.

    Those are the sibling modules of one class that hold most of the weights. Empty where no module has siblings or
    children to speak of.
    """
    siblings: dict[tuple[str, type], list[tuple[str, int]]] = {}
    for name, module in core(network).named_modules():
        if name and not isinstance(module, _CONTAINERS) and any(module.children()):
            weights = sum(parameter.numel() for parameter in module.parameters())
            siblings.setdefault((name.rpartition(".")[0], type(module)), []).append((name, weights))
    # Of equals the first, which is the outermost.
    body = max(siblings.values(), key=lambda blocks: sum(weights for _, weights in blocks), default=[])
    return [name for name, _ in body]


def resolve(network: nn.Module, tap: str) -> str:
    """The dotted name of a tap. Errors: TapError, with the nearest names that exist."""
    names = [name for name, _ in core(network).named_modules() if name]
    blocks = body_blocks(network)
    if tap in LEVELS and blocks:
        third = LEVELS.index(tap) + 1
        return blocks[-(-third * len(blocks) // 3) - 1]
    if tap in names:
        return tap
    levels = f"; {', '.join(LEVELS)} are short for {_levels_text(network)}" if blocks else ""
    raise TapError(
        f"{type(core(network)).__name__} has no tap {tap!r}. It has, the nearest first: "
        f"{_abridged(_nearest_first(tap, names))}{levels}"
    )


@contextlib.contextmanager
def listening(network: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """While this lasts, a forward pass leaves here what the submodules `names` put out.

    Copies, because the module that comes next may write into its input, as activations do. A network that
    `torch.compile` has compiled runs uncompiled meanwhile: compiled code does not call the hooks of a later day. One
    that replays a captured CUDA graph calls none at all (load it with `capture=False`).
    Errors: TapError after it, where a submodule was not called; during it, where it was called twice.
    """
    heard: dict[str, Any] = {}
    modules = core(network)

    def listener(name: str) -> Any:
        def hear(module: nn.Module, inputs: Any, output: Any) -> None:
            if name in heard:
                raise TapError(f"{name} runs more than once in a forward pass: tap a module that runs once")
            heard[name] = output.clone() if isinstance(output, Tensor) else output

        return hear

    handles = []
    try:
        for name in dict.fromkeys(names):
            handles.append(modules.get_submodule(name).register_forward_hook(listener(name)))
        with _uncompiled(network):
            yield heard
    finally:
        for handle in handles:
            handle.remove()
    if silent := [name for name in names if name not in heard]:
        raise TapError(f"{', '.join(silent)} took no part in the forward pass: tap a module that does")


def features_of(network: nn.Module, lr: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward pass: the image, and the features of each tap as (B,C,h,w), in float32 at least.

    Args:
        network: (B,3,h,w) -> (B,3,s*h,s*w), with or without gradients, autocast and wrappers; see `listening`.
        lr: (B,3,h,w)

    Errors: TapError; see `resolve`, `listening` and `as_map`.
    """
    names = {tap: resolve(network, tap) for tap in taps}
    with listening(network, list(names.values())) as heard:
        sr = network(lr)
    height, width = lr.shape[-2:]
    return sr, {tap: as_map(heard[name], len(lr), (height, width), tap) for tap, name in names.items()}


def as_map(output: Any, batch: int, lr_size: tuple[int, int], tap: str) -> Tensor:
    """What a module puts out -> (B,C,h,w) at LR size, in float32 at least; for the layouts see `layouts`.

    What a network padded at the bottom and on the right, to less than twice the size, is cut off.
    Errors: TapError for anything else.
    """
    if not isinstance(output, Tensor):
        raise TapError(f"tap {tap}: puts out a {type(output).__name__}, expected one tensor: tap a module inside it")
    found = layouts(output, batch, lr_size)
    if not found:
        raise TapError(
            f"tap {tap}: puts out {tuple(output.shape)}, which is no map of {lr_size[0]}x{lr_size[1]} LR pixels for "
            f"{batch} images: expected ({batch},C,h,w), ({batch},h,w,C) or ({batch},h*w,C), padded or not"
        )
    features = to_bchw(output, *found[0])[..., : lr_size[0], : lr_size[1]]
    return features.to(torch.promote_types(features.dtype, torch.float32))


def layouts(output: Tensor, batch: int, lr_size: tuple[int, int]) -> list[tuple[str, tuple[int, int]]]:
    """The ways to read features as a map: ("BCHW", "BHWC" or "BLC", its (H,W)), the likeliest first.

    Those without padding come before those with it.
    """
    if output.ndim not in (3, 4) or len(output) != batch:
        return []
    if output.ndim == 3:
        windows = range(1, LARGEST_WINDOW + 1)
        sizes = dict.fromkeys((_up(lr_size[0], window), _up(lr_size[1], window)) for window in windows)
        readings = [("BLC", size) for size in sizes if size[0] * size[1] == output.shape[1]]
    else:
        _, a, b, c = output.shape
        readings = [("BCHW", (b, c)), ("BHWC", (a, b))]
    fitting = [(name, size) for name, size in readings if _is_padded(size, lr_size)]
    fitting.sort(key=lambda reading: reading[1] != lr_size)
    # Of several paddings with as many pixels nobody can tell which it was.
    unsure = output.ndim == 3 and len(fitting) > 1 and fitting[0][1] != lr_size
    return [] if unsure else fitting


def to_bchw(output: Tensor, layout: str, size: tuple[int, int]) -> Tensor:
    """Features in one of the `layouts` -> (B,C,H,W), uncut."""
    if layout == "BLC":
        return output.transpose(1, 2).unflatten(2, size)
    return output if layout == "BCHW" else output.permute(0, 3, 1, 2)


def from_bchw(features: Tensor, layout: str) -> Tensor:
    """Undoes `to_bchw`."""
    if layout == "BLC":
        return features.flatten(2).transpose(1, 2)
    return features if layout == "BCHW" else features.permute(0, 2, 3, 1)


def check_taps(network: nn.Module, taps: Sequence[str], lr_size: tuple[int, int]) -> dict[str, tuple[int, int, int]]:
    """(C,h,w) of the features of each tap for LR images of `lr_size`, found out by one forward pass without gradients.

    Errors: TapError that lists taps that work.
    """
    names = {tap: resolve(network, tap) for tap in taps}
    heard = _outputs(network, lr_size)
    try:
        return {tap: _checked(network, heard, name, tap, lr_size) for tap, name in names.items()}
    except TapError as error:
        fitting = [name for name in heard if _fits(network, heard, name, lr_size)]
        # A network that pads a small image to twice its size or more has none.
        nearest = _abridged(_nearest_first(next(iter(names.values())), fitting))
        offered = f"Taps that work, the nearest first: {nearest}" if fitting else "No tap works: take a larger patch"
        raise TapError(f"{type(core(network)).__name__}, {error}. {offered}") from None


def _checked(
    network: nn.Module, heard: Mapping[str, list[Any]], name: str, tap: str, lr_size: tuple[int, int]
) -> tuple[int, int, int]:
    outputs = heard.get(name, [])
    if len(outputs) != 1:
        raise TapError(f"tap {tap}: runs {len(outputs)} times in a forward pass, expected once")
    features = as_map(outputs[0], 2, lr_size, tap)
    found = layouts(outputs[0], 2, lr_size)
    if len(found) > 1:
        # Which dimensions are space shows where another size is put in.
        other = (lr_size[0], 2 * lr_size[1])
        wide = _outputs(network, other)[name][0]
        sure = layouts(wide, 2, other)
        if not sure or sure[0][0] != found[0][0]:
            raise TapError(
                f"tap {tap}: puts out {tuple(outputs[0].shape)}, where channels and pixels cannot be told apart: take "
                "another patch size"
            )
    return tuple(features.shape[1:])  # type: ignore[return-value]


def _fits(network: nn.Module, heard: Mapping[str, list[Any]], name: str, lr_size: tuple[int, int]) -> bool:
    try:
        _checked(network, heard, name, name, lr_size)
    except TapError:
        return False
    return True


@torch.no_grad()
def _outputs(network: nn.Module, lr_size: tuple[int, int]) -> dict[str, list[Any]]:
    """Name of each submodule -> what it puts out for two grey images, each time that it runs."""
    heard: dict[str, list[Any]] = {}
    modes = [(module, module.training) for module in network.modules()]
    handles = [
        module.register_forward_hook(
            # Shapes are all that is looked at.
            lambda _module, _inputs, output, name=name: heard.setdefault(name, []).append(output)  # type: ignore[misc]
        )
        for name, module in core(network).named_modules()
        if name
    ]
    weight = next(network.parameters())
    try:
        network.eval()
        with _uncompiled(network):
            network(torch.full((2, 3, *lr_size), 0.5, device=weight.device, dtype=weight.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return heard


def _uncompiled(network: nn.Module) -> contextlib.AbstractContextManager[Any]:
    compiled = any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in network.modules()
    )
    return torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()


def _up(size: int, multiple: int) -> int:
    return size + -size % multiple


def _is_padded(size: tuple[int, int], lr_size: tuple[int, int]) -> bool:
    return all(of_lr <= side < 2 * of_lr for side, of_lr in zip(size, lr_size, strict=True))


def _levels_text(network: nn.Module) -> str:
    return ", ".join(resolve(network, level) for level in LEVELS)


def _nearest_first(word: str, names: Sequence[str]) -> list[str]:
    close = difflib.get_close_matches(word, names, n=LISTED, cutoff=0.0) if names else []
    return [*close, *(name for name in names if name not in close)]


def _abridged(names: Sequence[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
