"""Feature taps: what a submodule of any network puts out, by the name that `named_modules()` gives it.

Names are those of the network itself, without what it is wrapped in (DDP, `torch.compile`, precision, value range).
`early`, `middle` and `late` are short for the last blocks of the three thirds of any network's body: the places where
FAKD compares features (its "features 1, 2, 3").
"""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mtkd_dist.methods.feature_maps import TapError, as_map, layouts

LEVELS = ("early", "middle", "late")
LISTED = 12

_WRAPPERS = ("network", "module", "_orig_mod")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_blocks: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()
"""What `body_blocks` found: a search through all modules, and asked for in every step."""
_of_this_thread = threading.local()


def core(network: nn.Module) -> nn.Module:
    """The network inside the modules that only wrap one."""
    return _wrappers_and_core(network)[-1]


def body_blocks(network: nn.Module) -> list[str]:
    """Names of the blocks that a network's body is made of, in order: `body.0`, ... of EDSR.

    Those are the sibling modules of one class that hold most of the weights. Empty where no module has siblings or
    children to speak of.
    """
    inner = core(network)
    if inner not in _blocks:
        _blocks[inner] = _find_body_blocks(inner)
    return _blocks[inner]


def _find_body_blocks(network: nn.Module) -> list[str]:
    siblings: dict[tuple[str, type], list[tuple[str, int]]] = {}
    for name, module in network.named_modules():
        if name and not isinstance(module, _CONTAINERS) and any(module.children()):
            weights = sum(parameter.numel() for parameter in module.parameters())
            siblings.setdefault((name.rpartition(".")[0], type(module)), []).append((name, weights))
    # Of equals the first, which is the outermost.
    body = max(siblings.values(), key=lambda blocks: sum(weights for _, weights in blocks), default=[])
    return [name for name, _ in body]


def resolve(network: nn.Module, tap: str) -> str:
    """The dotted name of a tap. Errors: TapError, with the nearest names that exist."""
    inner = core(network)
    if tap in LEVELS and (blocks := body_blocks(network)):
        third = LEVELS.index(tap) + 1
        return blocks[-(-third * len(blocks) // 3) - 1]
    if tap:
        with contextlib.suppress(AttributeError):
            inner.get_submodule(tap)
            return tap
    names = [name for name, _ in inner.named_modules() if name]
    levels = f"; {', '.join(LEVELS)} are short for {_levels_text(network)}" if body_blocks(network) else ""
    raise TapError(
        f"{type(inner).__name__} has no tap {tap!r}. It has, the nearest first: "
        f"{_abridged(_nearest_first(tap, names))}{levels}"
    )


@contextlib.contextmanager
def listening(network: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """While this lasts, a forward pass of this thread leaves here what the submodules `names` put out.

    Copies, because the module that comes next may write into its input, as activations do. A network that
    `torch.compile` has compiled runs uncompiled meanwhile: compiled code does not call the hooks of a later day. One
    that replays a captured CUDA graph calls none at all, and must not do so while it `is_listening`.
    Errors: TapError after it, where a submodule was not called; during it, where it was called twice.
    """
    heard: dict[str, Any] = {}
    modules = core(network)
    # A teacher answers two threads at a time.
    thread = threading.get_ident()

    def listener(name: str) -> Any:
        def hear(module: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() != thread:
                return
            if name in heard:
                raise TapError(f"{name} runs more than once in a forward pass: tap a module that runs once")
            heard[name] = output.clone() if isinstance(output, Tensor) else output

        return hear

    handles = []
    listened = _listened()
    listened.append(modules)
    try:
        for name in dict.fromkeys(names):
            handles.append(modules.get_submodule(name).register_forward_hook(listener(name)))
        with _uncompiled(network):
            yield heard
    finally:
        listened.remove(modules)
        for handle in handles:
            handle.remove()
    if silent := [name for name in names if name not in heard]:
        raise TapError(f"{', '.join(silent)} took no part in the forward pass: tap a module that does")


def is_listening(network: nn.Module) -> bool:
    """Whether this thread is `listening` to what this network computes, so that all of it must really run."""
    inner = core(network)
    return any(module is inner for module in _listened())


def _listened() -> list[nn.Module]:
    """Networks that this thread is `listening` to just now."""
    found: list[nn.Module] = _of_this_thread.__dict__.setdefault("networks", [])
    return found


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


def check_taps(network: nn.Module, taps: Sequence[str], lr_size: tuple[int, int]) -> dict[str, tuple[int, int, int]]:
    """(C,h,w) of the features of each tap for LR images of `lr_size`, found out by one forward pass without gradients.

    Errors: TapError that lists taps that work.
    """
    names = {tap: resolve(network, tap) for tap in taps}

    @cache
    def outputs(lr_size: tuple[int, int]) -> Mapping[str, list[Any]]:
        return _outputs(network, lr_size)

    try:
        return {tap: _checked(outputs, name, tap, lr_size) for tap, name in names.items()}
    except TapError as error:
        fitting = [name for name in outputs(lr_size) if _fits(outputs, name, lr_size)]
        # A network that pads a small image to twice its size or more has none.
        nearest = _abridged(_nearest_first(next(iter(names.values())), fitting))
        offered = f"Taps that work, the nearest first: {nearest}" if fitting else "No tap works: take a larger patch"
        raise TapError(f"{type(core(network)).__name__}, {error}. {offered}") from None


_OutputsFor = Callable[[tuple[int, int]], Mapping[str, list[Any]]]
"""LR size -> what each submodule puts out."""


def _checked(outputs: _OutputsFor, name: str, tap: str, lr_size: tuple[int, int]) -> tuple[int, int, int]:
    runs = outputs(lr_size).get(name, [])
    if len(runs) != 1:
        raise TapError(f"tap {tap}: runs {len(runs)} times in a forward pass, expected once")
    features = as_map(runs[0], 2, lr_size, tap)
    found = layouts(runs[0], 2, lr_size)
    if len(found) > 1:
        # Which dimensions are space shows where another size is put in.
        other = (lr_size[0], 2 * lr_size[1])
        sure = layouts(outputs(other)[name][0], 2, other)
        if not sure or sure[0][0] != found[0][0]:
            raise TapError(
                f"tap {tap}: puts out {tuple(runs[0].shape)}, where channels and pixels cannot be told apart: take "
                "another patch size"
            )
    _, channels, height, width = features.shape
    return channels, height, width


def _fits(outputs: _OutputsFor, name: str, lr_size: tuple[int, int]) -> bool:
    try:
        _checked(outputs, name, name, lr_size)
    except TapError:
        return False
    return True


@torch.no_grad()
def _outputs(network: nn.Module, lr_size: tuple[int, int]) -> dict[str, list[Any]]:
    """Name of each submodule -> what it puts out for two grey images, each time that it runs; tensors without data."""
    heard: dict[str, list[Any]] = {}

    def listener(name: str) -> Any:
        def hear(module: nn.Module, inputs: Any, output: Any) -> None:
            shape_alone = torch.empty_like(output, device="meta") if isinstance(output, Tensor) else output
            heard.setdefault(name, []).append(shape_alone)

        return hear

    modes = [(module, module.training) for module in network.modules()]
    weight = next(network.parameters())
    handles = [module.register_forward_hook(listener(name)) for name, module in core(network).named_modules() if name]
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


def _wrappers_and_core(network: nn.Module) -> list[nn.Module]:
    """From the outside in."""
    found = [network]
    while len(children := found[-1]._modules) == 1 and (name := next(iter(children))) in _WRAPPERS:
        found.append(found[-1].get_submodule(name))
    return found


def _uncompiled(network: nn.Module) -> contextlib.AbstractContextManager[Any]:
    compiled = any(
        "_orig_mod" in module._modules or module._compiled_call_impl is not None
        for module in _wrappers_and_core(network)
    )
    return torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()


def _levels_text(network: nn.Module) -> str:
    return ", ".join(resolve(network, level) for level in LEVELS)


def _nearest_first(word: str, names: Sequence[str]) -> list[str]:
    close = difflib.get_close_matches(word, names, n=LISTED, cutoff=0.0) if names else []
    return [*close, *(name for name in names if name not in close)]


def _abridged(names: Sequence[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
