"""Which colour and line a model has, the same in all charts of a page. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mtkd_dist.report.page.charts import DASHES

FAMILIES: dict[str, tuple[str, ...]] = {
    "teacher": ("teacher-1", "teacher-2", "teacher-3", "teacher-4", "teacher-5"),
    "model": ("teacher-1", "teacher-2", "teacher-3", "teacher-4", "teacher-5"),
    "student": ("student", "student-2", "student-3"),
    "aggregate": ("aggregate",),
    "mean": ("mean",),
    "bicubic": ("bicubic",),
}
"""Role -> names of its colours (`--c-NAME` of the page), one for each model of the role; after the last, the first."""


class Look(NamedTuple):
    colour: str
    dash: str


def looks(roles: Mapping[str, str]) -> dict[str, Look]:
    """Model -> its look. `roles`: model -> role, in order."""
    count: dict[str, int] = {}
    found: dict[str, Look] = {}
    for model, role in roles.items():
        number = count[role] = count.get(role, -1) + 1
        colours = FAMILIES[role]
        # The first of a role is a solid line. Of 5 colours and 6 dashes, no pair comes twice before the 31st.
        found[model] = Look(colours[number % len(colours)], DASHES[number % len(DASHES)])
    return found
