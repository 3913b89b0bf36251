"""EDSR and RCAN as BasicSR writes them: the official networks under other names.

BasicSR takes values in [0,1], goes to (x - mean) * 255 itself, and keeps neither number in the file; the official
files hold them as a mean shift. Its other networks share some of these names (MSRResNet, RRDB, SwinIR): only a file
all of whose keys are those of EDSR or of RCAN is taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mtkd_dist.models.edsr import mean_shift

BASICSR_KEYS = {
    "EDSR": frozenset({"conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight", "conv_last.weight"}),
    "RCAN": frozenset(
        {"conv_first.weight", "body.0.residual_group.0.rcab.0.weight", "conv_after_body.weight", "conv_last.weight"}
    ),
}
"""Keys by which the two are known."""

_FRAME = {
    r"conv_first": r"head.0",
    r"conv_after_body": r"body.{groups}",
    r"upsample\.(\d+)": r"tail.0.\1",
    r"conv_last": r"tail.1",
}
_NAMES = {
    "EDSR": _FRAME | {r"body\.(\d+)\.conv1": r"body.\1.body.0", r"body\.(\d+)\.conv2": r"body.\1.body.2"},
    "RCAN": _FRAME
    | {
        r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.([02])": r"body.\1.body.\2.body.\3",
        r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.3\.attention\.1": r"body.\1.body.\2.body.3.conv_du.0",
        r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.3\.attention\.3": r"body.\1.body.\2.body.3.conv_du.2",
        r"body\.(\d+)\.conv": r"body.\1.body.{blocks}",
    },
}
"""Module in BasicSR (a pattern) -> module in the official code."""


def official_names(state_dict: Mapping[str, Tensor], value_range: float = 255.0) -> dict[str, Tensor]:
    """A BasicSR EDSR or RCAN with the official keys and mean shift; every other state dict as it is.

    `value_range` is BasicSR's `img_range`; it matters to EDSR only, because RCAN's is 255 wherever RCAN is known.
    """
    for architecture, names in _NAMES.items():
        renamed = {_rename(key, names): value for key, value in state_dict.items()}
        if BASICSR_KEYS[architecture] <= state_dict.keys() and None not in renamed:
            groups, blocks = _count(state_dict, r"body\.(\d+)"), _count(state_dict, r".*_group\.(\d+)")
            weights = {str(key).format(groups=groups, blocks=blocks): value for key, value in renamed.items()}
            return weights | mean_shift(value_range if architecture == "EDSR" else 255.0)
    return dict(state_dict)


def _rename(key: str, names: Mapping[str, str]) -> str | None:
    """The official name, with `{groups}` and `{blocks}` left open; None for a key that has none."""
    module, _, parameter = key.rpartition(".")
    for pattern, official in names.items():
        if (found := re.fullmatch(pattern, module)) and parameter in ("weight", "bias"):
            return f"{found.expand(official)}.{parameter}"
    return None


def _count(state_dict: Mapping[str, Tensor], numbered: str) -> int:
    """How many numbers occur at the group of the pattern `numbered`, which keys begin with."""
    return len({found[1] for key in state_dict if (found := re.match(numbered, key))})
