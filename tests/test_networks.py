"""The networks that can be named: their names, sizes, shapes, and what spandrel must be kept from doing."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.models import build_network, count_params, is_network_name, network_names, parse_network
from mtkd_dist.models.spandrel_adapter import allow_torchvision_import, operators_are_missing

PUBLISHED_PARAMS = {
    "edsr": (40_729_603, 43_680_003, 43_089_923),
    "edsr-baseline": (1_369_859, 1_554_499, 1_517_571),
    "rcan": (15_444_643, 15_629_283, 15_592_355),
    "rcan-light": (5_023_603, 5_208_243, 5_171_315),
    "swinir": (11_752_487, 11_937_127, 11_900_199),
    "swinir-light": (910_152, 918_267, 929_628),
}

SMALL = (
    "edsr-baseline:width=8,blocks=2",
    "rcan:groups=1,blocks=1,width=8,reduction=4",
    "swinir:width=12,groups=1,layers=2,heads=3",
    "swinir-light:width=12,groups=1,layers=2,heads=3",
    "rlfn:width=8,blocks=2",
)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", PUBLISHED_PARAMS)
def test_parameter_counts_are_the_published_ones(name: str, scale: int) -> None:
    # spandrel's networks cannot be built on the meta device; they are small enough to be built for real.
    with torch.device("meta" if name == "edsr" else "cpu"):
        network = build_network(name, scale)
    assert count_params(network) == PUBLISHED_PARAMS[name][scale - 2]


@pytest.mark.parametrize("name", SMALL)
def test_freezing_a_network_does_not_change_its_count(name: str) -> None:
    network = build_network(name, 2)
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert count_params(network.requires_grad_(False)) == trainable


@pytest.mark.parametrize("size", [(16, 16), (13, 19), (3, 1)])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SMALL)
def test_any_image_size_gives_scale_times_that_size(name: str, scale: int, size: tuple[int, int]) -> None:
    sr = build_network(name, scale)(torch.rand(2, 3, *size))
    assert sr.shape == (2, 3, scale * size[0], scale * size[1])
    assert sr.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_the_input_is_left_as_it_was(name: str) -> None:
    lr = torch.rand(1, 3, 16, 16)
    before = lr.clone()
    build_network(name, 2)(lr)
    assert torch.equal(lr, before)


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_not_clamped(name: str) -> None:
    network = build_network(name, 2).eval()
    with torch.no_grad():
        assert network(torch.full((1, 3, 16, 16), 40.0)).abs().max() > 1


@pytest.mark.parametrize("name", SMALL)
def test_a_copy_computes_the_same_and_is_independent(name: str) -> None:
    network = build_network(name, 2).eval()
    twin = copy.deepcopy(network)
    lr = torch.rand(1, 3, 24, 16)
    with torch.no_grad():
        before = network(lr)
        for parameter in network.parameters():
            parameter.add_(0.1)
        assert torch.equal(twin(lr), before)
        assert not torch.equal(network(lr), before)


@pytest.mark.parametrize("name", SMALL)
def test_every_trainable_weight_gets_a_gradient(name: str) -> None:
    network = build_network(name, 2)
    network(torch.rand(1, 3, 24, 24)).square().mean().backward()
    assert not [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]


def test_swinir_with_shared_masks_equals_the_published_layer_by_layer_masks() -> None:
    network = build_network("swinir-light:width=12,groups=1,layers=2,heads=3", 2).eval()
    lr = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        shared = network(lr)
        for block in network.get_submodule("layers.0.residual_group.blocks").children():
            del block.calculate_mask  # brings back the method of the class
        assert torch.equal(network(lr), shared)


def test_swinir_can_be_trained_after_it_was_used_in_inference_mode() -> None:
    network = build_network("swinir-light:width=12,groups=1,layers=2,heads=3", 2)
    lr = torch.rand(1, 3, 40, 40)
    with torch.inference_mode():
        network(lr)
    network(lr).mean().backward()


def integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


@given(width=integers(1, 512), blocks=integers(1, 64), res_scale=st.floats(1e-3, 10))
def test_canonical_edsr_text_means_the_same_network(width: int, blocks: int, res_scale: float) -> None:
    spec = parse_network(f"edsr-baseline:width={width},blocks={blocks},res_scale={res_scale!r}")
    assert parse_network(spec.text) == spec
    assert spec.sizes == {"width": width, "blocks": blocks, "res_scale": res_scale}


@given(heads=integers(1, 8), per_head=integers(1, 16), groups=integers(1, 8), layers=integers(1, 8))
def test_canonical_swinir_text_means_the_same_network(heads: int, per_head: int, groups: int, layers: int) -> None:
    spec = parse_network(f"swinir-light:heads={heads},layers={layers},groups={groups},width={heads * per_head}")
    assert parse_network(spec.text) == spec


@given(name=st.sampled_from(network_names()))
def test_a_bare_name_is_its_own_canonical_text(name: str) -> None:
    assert parse_network(name).text == name


def test_sizes_that_are_the_default_vanish_from_the_canonical_text() -> None:
    assert parse_network("edsr-baseline:blocks=4,width=64").text == "edsr-baseline:blocks=4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("edrs", r"unknown network 'edrs'; known: edsr, .*Did you mean 'edsr'\?"),
        ("edsr:widht=32", r"unknown size 'widht'; edsr has: width, blocks, res_scale.*Did you mean 'width'\?"),
        ("edsr:width=wide", "width=wide must be a whole number"),
        ("edsr:width=32.5", "width=32.5 must be a whole number"),
        ("edsr:res_scale=small", "res_scale=small must be a number"),
        ("edsr:width=0", "width=0 must be a number above 0"),
        ("edsr:res_scale=nan", "res_scale=nan must be a number above 0"),
        ("edsr:width", "expected key=value after 'edsr', got 'width'"),
        ("edsr:", "expected key=value after 'edsr', got ''"),
        ("edsr:width=8,width=16", "size 'width' is given twice"),
        ("swinir:width=50,heads=6", "width=50 must be a multiple of heads=6"),
        ("swinir:window=1", "window=1 must be at least 2"),
        ("rcan:width=8", "width=8 must be at least reduction=16"),
    ],
)
def test_a_mistake_in_a_network_text_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_network(text)
    assert repr(text) in str(caught.value)


def test_a_scale_that_no_network_has_is_refused() -> None:
    with pytest.raises(ValueError, match="scale 5 is not supported; expected 2, 3 or 4"):
        build_network("edsr-baseline", 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("edsr", True),
        ("rcan:groups=2", True),
        ("edsr:nonsense", True),
        ("teachers/edsr.pth", False),
        ("edsr.pth", False),
    ],
)
def test_a_network_name_is_told_from_a_file(text: str, expected: bool) -> None:
    assert is_network_name(text) is expected


@pytest.mark.parametrize(
    ("torch_cuda", "version_file", "expected"),
    [
        (None, "__version__ = '0.28.0+cu130'\n", True),
        (None, "__version__ = '0.28.0+cpu'\n", False),
        (None, "__version__ = '0.28.0'\n", False),
        (None, "", False),
        ("13.0", "__version__ = '0.28.0+cu130'\n", False),
    ],
)
def test_only_a_cuda_torchvision_beside_a_cpu_torch_lacks_operators(
    torch_cuda: str | None, version_file: str, expected: bool
) -> None:
    assert operators_are_missing(torch_cuda, version_file) is expected


def test_torchvision_can_be_imported_after_the_guard_ran_twice() -> None:
    code = (
        "from mtkd_dist.models.spandrel_adapter import allow_torchvision_import as allow\n"
        "import sys\n"
        "assert 'spandrel' not in sys.modules and 'torchvision' not in sys.modules\n"
        "allow(); allow()\n"
        "import torchvision\n"
        "allow()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_guard_does_nothing_where_torchvision_is_already_imported() -> None:
    build_network("rcan:groups=1,blocks=1,width=8,reduction=4", 2)
    assert "torchvision" in sys.modules
    allow_torchvision_import()
    assert callable(torch.ops.torchvision.nms)
