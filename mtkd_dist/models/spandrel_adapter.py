"""The one place that knows spandrel: its RCAN and SwinIR, and its detection of some forty architectures.

spandrel is imported on first use: it brings torchvision and takes seconds.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtkd_dist.models.closest import describe_closest
from mtkd_dist.models.padding import pad_bottom_right, shortfall
from mtkd_dist.models.shifted_windows import region_mask
from mtkd_dist.models.sizes import check_scale, require_divisible, require_positive

_torchvision_operators: torch.library.Library | None = None


@dataclass(frozen=True)
class RCANSizes:
    groups: int = 10
    blocks: int = 20
    width: int = 64
    reduction: int = 16

    def __post_init__(self) -> None:
        require_positive(self, "groups", "blocks", "width", "reduction")
        if self.width < self.reduction:
            raise ValueError(f"width={self.width} must be at least reduction={self.reduction}")


@dataclass(frozen=True)
class SwinIRSizes:
    width: int = 180
    groups: int = 6
    layers: int = 6
    heads: int = 6
    window: int = 8

    def __post_init__(self) -> None:
        require_positive(self, "width", "groups", "layers", "heads")
        require_divisible(self.width, self.heads)
        if self.window < 2:
            raise ValueError(f"window={self.window} must be at least 2")


def build_rcan(scale: int, groups: int, blocks: int, width: int, reduction: int) -> nn.Module:
    """RCAN (Zhang et al., ECCV 2018). (B,3,h,w) float RGB in [0,1] -> (B,3,s*h,s*w), unclamped; any h and w.

    Keys and the inner range of 0..255 are the official ones, so its files load wherever RCAN is known.
    """
    check_scale(scale)
    network = _rcan_class()(
        scale=scale,
        n_resgroups=groups,
        n_resblocks=blocks,
        n_feats=width,
        reduction=reduction,
        rgb_range=255,
        norm=True,
    )
    # The mean shift is a constant, but spandrel leaves it trainable.
    network.sub_mean.requires_grad_(False)
    network.add_mean.requires_grad_(False)
    return network


def build_swinir(
    scale: int,
    width: int,
    groups: int,
    layers: int,
    heads: int,
    window: int,
    upsampler: Literal["pixelshuffle", "pixelshuffledirect"],
) -> nn.Module:
    """SwinIR (Liang et al., ICCVW 2021). (B,3,h,w) float RGB in [0,1] -> (B,3,s*h,s*w), unclamped; any h and w.

    The MLP ratio is 2. Keys are the official ones; `pixelshuffledirect` is the light head of one convolution.
    """
    check_scale(scale)
    # torch warns of the way in which transformers call its meshgrid.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        network = _swinir_class()(
            # 64 for the published window of 8, the size for which official files hold their masks.
            img_size=8 * window,
            embed_dim=width,
            depths=[layers] * groups,
            num_heads=[heads] * groups,
            window_size=window,
            mlp_ratio=2,
            upscale=scale,
            upsampler=upsampler,
        )
    _remember_masks(network)
    return network


class SpandrelNetwork(nn.Module):
    """A network that spandrel recognised. (B,3,h,w) float RGB in [0,1] -> (B,3,s*h,s*w), unclamped; any h and w."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.network: nn.Module = descriptor.model.eval()
        self.architecture = str(descriptor.architecture.id)
        self.scale = int(descriptor.scale)
        # Some networks return more than the image. The descriptor's own call knows, but clamps and forbids autograd.
        self._call = descriptor._call_fn
        self._size_requirements = descriptor.size_requirements
        if self._takes_any_multiple():
            self._size_requirements = replace(self._size_requirements, multiple_of=1)

    def forward(self, lr: Tensor) -> Tensor:
        height, width = lr.shape[-2:]
        needed = self._size_requirements
        rows, columns = (max(height, width),) * 2 if needed.square else (height, width)
        bottom = rows - height + shortfall(rows, needed.minimum, needed.multiple_of)
        right = columns - width + shortfall(columns, needed.minimum, needed.multiple_of)
        # Cloned because some of spandrel's networks (RCAN) write into their input.
        sr = self._call(self.network, pad_bottom_right(lr, bottom, right).clone())
        return sr[..., : height * self.scale, : width * self.scale]

    @torch.inference_mode()
    def _takes_any_multiple(self) -> bool:
        """Whether the network itself gives the right size for an image that is not the multiple asked for.

        spandrel also asks for one where the network pads on its own, in the way that its scores were measured with.
        Padded before, CRAFT (which always adds 1 to 16 pixels) loses 0.03 dB on Set5.
        """
        requirements = self._size_requirements
        if requirements.multiple_of == 1 or requirements.square:
            return False
        smallest = max(requirements.minimum, requirements.multiple_of)
        height, width = smallest + 1, smallest + requirements.multiple_of - 1
        try:
            sr = self._call(self.network, torch.full((1, 3, height, width), 0.5))
        except Exception:  # each network fails at an impossible size in its own way
            return False
        return sr.shape == (1, 3, height * self.scale, width * self.scale)


def recognise(state_dict: Mapping[str, Tensor], source: str) -> SpandrelNetwork:
    """Build and fill the network that `state_dict` belongs to; `source` names the file in errors.

    Raises ValueError where the architecture is unknown or does not quite fit, or where RGB does not become larger RGB.
    """
    allow_torchvision_import()
    from spandrel import MAIN_REGISTRY, ImageModelDescriptor, ModelLoader, UnsupportedModelError

    known = ", ".join(sorted(str(entry.architecture.id) for entry in MAIN_REGISTRY))
    try:
        # A copy: the detection of some architectures renames keys in place.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            descriptor = ModelLoader().load_from_state_dict(dict(state_dict))
    except UnsupportedModelError:
        raise ValueError(
            f"{source}: unknown architecture; {_keys_in_words(state_dict)}. "
            f"{describe_closest(state_dict, MAIN_REGISTRY)} "
            f"Known: our own files, EDSR, RLFN, and through spandrel {known}. "
            "Files of fused (deployed) variants have other keys: give the training checkpoint instead"
        ) from None
    except Exception as error:  # each architecture infers its sizes in its own way and fails with its own errors
        raise ValueError(
            f"{source}: spandrel took it for a known architecture but could not load it; "
            f"{_keys_in_words(state_dict)}. {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(descriptor, ImageModelDescriptor) or descriptor.scale < 2:
        raise ValueError(
            f"{source}: {descriptor.architecture.id} with scale {descriptor.scale} does not enlarge images"
        )
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise ValueError(
            f"{source}: {descriptor.architecture.id} turns {descriptor.input_channels} channels into "
            f"{descriptor.output_channels}; expected RGB, 3 into 3"
        )
    network = SpandrelNetwork(descriptor)
    _remember_masks(network)
    return network


def allow_torchvision_import() -> None:
    """Make `import torchvision` work where its CUDA build lies beside a CPU build of torch. Does nothing elsewhere.

    There its C library cannot load, its operators stay unknown to torch, and the import ends in "operator
    torchvision::nms does not exist" (pytorch/vision issue 8985). Declaring the two operators is enough for what
    spandrel needs. May be called any number of times.
    """
    global _torchvision_operators
    spec = importlib.util.find_spec("torchvision")
    if "torchvision" in sys.modules or spec is None or spec.origin is None:
        return
    # Read, not imported: a failed import leaves half-initialised modules behind.
    version_file = Path(spec.origin).with_name("version.py")
    version = version_file.read_text() if version_file.is_file() else ""
    if not operators_are_missing(torch.version.cuda, version) or hasattr(torch.ops.torchvision, "nms"):
        return
    # Kept alive by the module: the declarations vanish with the object.
    _torchvision_operators = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _torchvision_operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def operators_are_missing(torch_cuda: str | None, torchvision_version_file: str) -> bool:
    """True for torch without CUDA (`torch.version.cuda` is None) beside a torchvision built for CUDA."""
    built_for_cuda = re.search(r"__version__\s*=\s*['\"][^'\"]*\+cu", torchvision_version_file) is not None
    return torch_cuda is None and built_for_cuda


@cache
def _rcan_class() -> Any:
    allow_torchvision_import()
    from spandrel.architectures.RCAN import RCAN

    class PureRCAN(RCAN):
        def forward(self, lr: Tensor) -> Tensor:
            # spandrel's RCAN multiplies its input in place.
            return super().forward(lr.clone())

    return PureRCAN


@cache
def _swinir_class() -> Any:
    allow_torchvision_import()
    from spandrel.architectures.SwinIR import SwinIR

    class AnySizeSwinIR(SwinIR):
        def forward(self, lr: Tensor) -> Tensor:
            height, width = lr.shape[-2:]
            # SwinIR pads by itself, but by a mirror, which fails for images smaller than a window.
            lr = pad_bottom_right(
                lr, shortfall(height, multiple=self.window_size), shortfall(width, multiple=self.window_size)
            )
            return super().forward(lr)[..., : height * self.upscale, : width * self.upscale]

    return AnySizeSwinIR


def _remember_masks(network: nn.Module) -> None:
    """Let all SwinIR layers inside share the masks of the last sizes.

    As published, every layer rebuilds its mask on the CPU at every forward of an image that is not 64x64.
    """
    from spandrel.architectures.SwinIR.__arch.SwinIR import SwinTransformerBlock

    for block in network.modules():
        if isinstance(block, SwinTransformerBlock):
            block.calculate_mask = partial(_mask_beside, block.attn, block.window_size, block.shift_size)


def _mask_beside(attention: nn.Module, window: int, shift: int, size: tuple[int, int]) -> Tensor:
    return region_mask(size, window, shift, attention.get_parameter("qkv.weight").device)


def _keys_in_words(state_dict: Mapping[str, Tensor]) -> str:
    keys = list(state_dict)
    return f"its {len(keys)} keys begin with {', '.join(keys[:8])}" if keys[1:] else f"its only key is {keys[0]}"
