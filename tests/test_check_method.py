"""What a method asks of networks, patches and the link, as a user is told before anything starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtkd_dist.config.load import ConfigError, load_config
from mtkd_dist.config.tree import Config
from mtkd_dist.methods import FrozenNetworks, values_sent_by
from mtkd_dist.models import build_network, load_network, save_network
from mtkd_dist.pools.wire import sample_bytes
from mtkd_dist.stages.check import check, check_settings
from mtkd_dist.stages.distil_method import distil_method

STUDENT = "edsr-baseline:width=8,blocks=3"
GIVEN = "rlfn:width=6,blocks=3"
TRAINED = "rcan-light:groups=3,blocks=1,width=16,reduction=4"


def config_of(folder: Path, *flags: str) -> Config:
    """One teacher that is a file, and one that is to be trained first."""
    save_network(folder / "given.safetensors", build_network(GIVEN, 2), {"network": GIVEN, "scale": "2"})
    teachers = [str(folder / "given.safetensors"), f"{TRAINED},name=trained"]
    return load_config(["--teachers", *teachers, "--student", STUDENT, *flags])


def refusal(config: Config) -> str:
    with pytest.raises(ConfigError) as error:
        check(config)
    return str(error.value)


@pytest.mark.parametrize("method", ["at", "fakd", "dukd", "crosskd"])
def test_networks_of_other_families_and_widths_pass_with_the_defaults(method: str, tmp_path: Path) -> None:
    check(config_of(tmp_path, "--method", method))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            "at --at.taps [body.9]",
            "at.taps: the student: EDSR has no tap 'body.9'. It has, the nearest first: body.3, ",
        ),
        (
            "at --at.taps [body.1]",
            "at.taps: teacher given, as there are no teacher_taps: RLFN has no tap 'body.1'. It has, the nearest",
        ),
        ("at --at.teacher_taps [early,body.1,late]", "at.teacher_taps: teacher given: RLFN has no tap 'body.1'"),
        ("at --at.taps [tail.0]", "at.taps: the student: EDSR, tap tail.0: puts out (2, 8, 48, 48), which is no map"),
        (
            "at --at.taps [body.0.body.1,late]",
            "at.taps: teacher given, as there are no teacher_taps: RLFN has no tap 'body.0.body.1'",
        ),
        ("fakd --fakd.taps []", "fakd.taps: none are given, so that nothing is compared: give some, such as early"),
        ("fakd --fakd.teacher_taps [late]", "fakd.teacher_taps: 1 (late) are to be compared in pairs with 3 of the"),
        ("fakd --fakd.taps [hed]", "fakd.taps: the student: EDSR has no tap 'hed'. It has, the nearest first: head"),
        ("crosskd --crosskd.tap body.7", "crosskd.tap: the student: EDSR has no tap 'body.7'"),
        ("crosskd --crosskd.tap tail.0", "crosskd.tap: the student: EDSR, tap tail.0: puts out"),
        (
            "crosskd --crosskd.tap body.1",
            "crosskd.tap: teacher given, as there is no teacher_tap: RLFN has no tap 'body.1'",
        ),
        ("crosskd --crosskd.teacher_tap upsampler", "crosskd.teacher_tap: teacher given: RLFN, tap upsampler: puts"),
    ],
)
def test_taps_that_do_not_fit_are_refused_with_the_key_the_network_and_what_would_fit(
    flags: str, words: str, tmp_path: Path
) -> None:
    method, *rest = flags.split()
    told = refusal(config_of(tmp_path, "--method", method, *rest))
    assert told.startswith(words)
    if " tap " in told:
        assert re.search(r"nearest first: \w", told)


def test_each_of_several_students_is_asked(tmp_path: Path) -> None:
    more = ["--more_students", "edsr-baseline:width=4,blocks=1", "--at.taps", "[body.2]", "--at.teacher_taps", "[late]"]
    told = refusal(config_of(tmp_path, "--method", "at", *more))
    assert told.startswith("at.taps: the student: EDSR has no tap 'body.2'.")
    assert told.endswith("(student edsr-baseline:width=4,blocks=1).")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("at --link.wire uint8", "link.wire: uint8 is not possible; expected float16 or float32: the method at sends"),
        ("fakd --link.wire uint8", "link.wire: uint8 is not possible"),
        ("at --distil.compile true", "distil.compile: True is not possible; expected false: the method at looks into"),
        ("fakd --distil.compile true", "distil.compile: True is not possible"),
        ("crosskd --distil.compile true", "distil.compile: True is not possible"),
        ("at --teacher_outputs cached", "teacher_outputs: cached is not possible; expected live: the method at asks"),
        ("fakd --teacher_outputs cached", "teacher_outputs: cached is not possible"),
        ("dukd --teacher_outputs cached", "teacher_outputs: cached is not possible"),
        ("crosskd --teacher_outputs cached", "teacher_outputs: cached is not possible"),
        ("dukd --distil.patch 25", "distil.patch: 25 LR pixels cannot be shrunk 2 times for zooming out: take 24 or"),
    ],
)
def test_what_a_method_cannot_do_is_refused_without_looking_at_a_network(flags: str, words: str) -> None:
    method, *rest = flags.split()
    config = load_config(["--method", method, "--teachers", "absent.pth", *rest])
    with pytest.raises(ConfigError) as error:
        check_settings(config)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    "flags",
    ["kd --link.wire uint8", "dukd --link.wire uint8", "crosskd --link.wire uint8", "dukd --distil.compile true"]
    + [f"{method} --teacher_outputs auto" for method in ("at", "fakd", "dukd", "crosskd")]
    + ["at --distil.patch 25"],
)
def test_what_a_method_can_do_is_not_refused(flags: str) -> None:
    method, *rest = flags.split()
    check_settings(load_config(["--method", method, *rest]))


@pytest.mark.parametrize("method", ["at", "fakd", "dukd"])
def test_the_link_must_hold_what_only_networks_can_tell(method: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, "--method", method)
    teachers = {"given": load_network(tmp_path / "given.safetensors").module, "trained": build_network(TRAINED, 2)}
    values = values_sent_by(distil_method(config), FrozenNetworks(teachers), 2, config.distil.patch)
    need = config.distil.batch_size * sample_bytes(config.distil.patch, 2, values, "float16")
    check(config_of(tmp_path, "--method", method, "--link.max_bytes", str(need)))
    told = refusal(config_of(tmp_path, "--method", method, "--link.max_bytes", str(need - 1)))
    assert told.startswith(f"link.max_bytes: {need - 1} is not possible; expected at least {need}, the answers of one")
