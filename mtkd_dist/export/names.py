"""Names as catalogues write them. Pure."""

from __future__ import annotations

import re
import unicodedata

_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ł": "l", "Ł": "L"}
)
"""Latin letters that Unicode does not take apart into a plain one and an accent."""


def without_accents(text: str) -> str:
    """`Müller` -> `Muller`; what is not written in Latin letters stays."""
    parts = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(part for part in parts if not unicodedata.combining(part))


def identifier(text: str) -> str:
    """Lower-case words of a-z and 0-9 with hyphens; empty where the text has none."""
    return re.sub(r"[^a-z0-9]+", "-", without_accents(text).lower()).strip("-")
