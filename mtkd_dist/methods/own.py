"""A distillation method in a Python file of the user's own: `--method my_method.py`, or with settings
`--method my_method.py:temperature=0.1`.

The file holds one frozen dataclass with the two halves of a `Method`; its fields are its settings. The source travels
with the object, so workers on other machines need no copy of the file, and what has been trained knows the file by its
digest: an edited file is another method.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
import types
from pathlib import Path
from typing import Any

from mtkd_dist.methods.base import Method
from mtkd_dist.models.sizes import parse_spec

_SUFFIX = ".py"
_HALVES = ("teach", "loss")


def is_own(text: str) -> bool:
    """Whether `text` names a file of a method, and no method of ours."""
    return _file_of(text).endswith(_SUFFIX)


def own_method(text: str) -> Method:
    """The method that `FILE.py[:key=value,...]` names.

    The file is executed. Errors: ValueError where it is missing, fails, or does not hold exactly one method, and for
    settings that the method does not have.
    """
    file = _file_of(text)
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{file!r} is no file; expected one that holds a method (docs/guides/your-method.md)")
    kind = _class_of(path.read_text(encoding="utf-8"), file)
    try:
        usual = kind()
    except Exception as error:
        raise ValueError(
            f"{file}: {kind.__name__}() fails ({type(error).__name__}: {error}); every field needs a default"
        ) from None
    if not text[len(file) :]:
        return usual
    # Paths may hold anything; a specification is split at its first colon.
    spec = parse_spec(path.stem + text[len(file) :], "method", {path.stem: usual})
    return dataclasses.replace(usual, **spec.sizes)  # type: ignore[return-value]


def own_title(text: str) -> str:
    """What tables, folders and files call it: the name of the file, and the settings as they were given."""
    file = _file_of(text)
    return Path(file).stem + text[len(file) :]


def _file_of(text: str) -> str:
    """Up to the suffix; what is behind it are settings. A text without the suffix is no file: itself."""
    head, suffix, _ = text.partition(_SUFFIX + ":")
    return head + _SUFFIX if suffix else text


@functools.cache
def _class_of(source: str, file: str) -> Any:
    """The one method that the source holds. Errors: ValueError."""
    digest = hashlib.sha256(source.encode()).hexdigest()
    module = types.ModuleType(f"mtkd_own_method_{digest[:12]}")
    module.__file__ = file
    # Dataclasses look their annotations up in the module of this name.
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except Exception as error:
        told = f"{file}{where_in(error, file)}: {type(error).__name__}: {error}"
        raise ValueError(f"{told}; the file must run by itself") from error
    found: list[Any] = [value for value in vars(module).values() if _is_method(value, module.__name__)]
    if len(found) != 1:
        names = ", ".join(kind.__name__ for kind in found) or "none"
        raise ValueError(f"{file} holds {names}; expected one class with {' and '.join(_HALVES)}, and no second one")
    kind: Any = found[0]
    dataclass_made = getattr(kind, "__dataclass_params__", None)
    if dataclass_made is None or not dataclass_made.frozen:
        raise ValueError(f"{file}: {kind.__name__} must be a frozen dataclass (@dataclass(frozen=True))")
    if not hasattr(kind, "needs_teachers"):
        raise ValueError(f"{file}: {kind.__name__} must say needs_teachers: bool = True, or False")
    kind.source_digest = digest
    kind.__reduce__ = lambda method: (_again, (source, file, _values(method)))
    return kind


def _is_method(value: object, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module and all(hasattr(value, half) for half in _HALVES)


def _again(source: str, file: str, values: dict[str, Any]) -> Any:
    """The same object in another process."""
    return _class_of(source, file)(**values)


def _values(method: Any) -> dict[str, Any]:
    return {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}


def where_in(error: BaseException, text: str) -> str:
    """`, line 12`: the last place of the traceback that is in the file of the method `text`; empty without one."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _file_of(text):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f", line {lines[-1]}" if lines else ""
