"""From YAML file and flags to a tree of dataclasses; every mistake ends in a `ConfigError` with key, value and remedy.

jsonargparse does the work (types, YAML, nested flags, `--print_config`). Added here: presets as defaults, dashes in
flags, lists without brackets (`--teachers a.pth edsr`), and the nearest match of a misspelt key or value. `Config` is
one such tree; that of sweeps is another.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.tree import Config

T = TypeVar("T")

SHORT = {"--address": "--cluster.address"}


class ConfigError(ValueError):
    """The configuration cannot work; the message names the key, the value, what is allowed and the nearest match."""


def nearest(word: object, allowed: Iterable[object]) -> str:
    """` Did you mean 'x'?` for the closest of `allowed`, or nothing when none is close."""
    found = difflib.get_close_matches(str(word), [str(a) for a in allowed], n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""


def keys_of(tree: type, prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a dataclass tree with their types; a group stands in it as its dataclass."""
    keys: dict[str, Any] = {}
    hints = get_type_hints(tree)
    for field in dataclasses.fields(tree):
        name = prefix + field.name
        keys[name] = hints[field.name]
        if dataclasses.is_dataclass(hints[field.name]):
            keys |= keys_of(hints[field.name], name + ".")
    return keys


def settings_of(tree: type, mappings: Mapping[str, type]) -> dict[str, Any]:
    """The keys that have a flag, with their types; `mappings` as in `load_tree`."""
    return {key: kind for key, kind in _keys(tree, mappings).items() if not dataclasses.is_dataclass(kind)}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def load_config(argv: Sequence[str], prog: str = "mtkd_dist.launch") -> Config:
    """Read flags and the YAML file that they name.

    `--help` and `--print-config` print and raise `SystemExit`, as argparse does.
    Errors: ConfigError (unknown key, wrong type or choice, unreadable file).
    """
    return load_tree(_preset(preset_of(argv, Config)), argv, prog)


def preset_of(argv: Sequence[str], tree: type, mappings: Mapping[str, type] | None = None) -> Any:
    """What flags, or the YAML file that they name, say for the key `preset` of the tree; "demo" where they are silent.

    `mappings`: see `load_tree`. Errors: ConfigError for the file.
    """
    keys = _keys(tree, mappings or {})
    arguments = _arguments(argv, keys)
    return _value_of("--preset", arguments) or _file_values(arguments, keys).get("preset", "demo")


def config_of(values: Mapping[str, Any], where: str, preset: str, not_here: Mapping[str, str] | None = None) -> Config:
    """Of keys that something else holds, nested or dotted, on top of the defaults of their preset, else of `preset`.

    `where` names the holder in errors; `not_here`: keys and groups that it has no use for -> why. Errors: ConfigError
    as `load_config`, and for those.
    """
    _refuse_wrong_keys(values, where, keys_of(Config))
    flat = flatten(values)
    for key in flat:
        why = (not_here or {}).get(key) or (not_here or {}).get(key.partition(".")[0])
        if why:
            raise ConfigError(f"{where}.{key}: {why}; leave it out here.")
    parser = _parser(_preset(flat.get("preset", preset)), where)
    try:
        return _build(Config, parser.parse_object(flat))
    except argparse.ArgumentError as error:
        raise ConfigError(f"{where}: {_explain(str(error), keys_of(Config))}") from None


def load_tree(defaults: T, argv: Sequence[str], prog: str, mappings: Mapping[str, type] | None = None) -> T:
    """The tree of `defaults`, changed by the YAML file that flags name and by flags; as `load_config`.

    `mappings`: those of its keys that are free mappings -> the tree whose keys they may hold. They are kept as they are
    given, for `config_of`; flags reach into them (--launch.seed 1).
    """
    mappings = mappings or {}
    keys = _keys(type(defaults), mappings)
    arguments = _arguments(argv, keys)
    _refuse_unknown_flags(arguments, keys)
    _file_values(arguments, keys)
    reaching = {name: _take(arguments, f"--{name}.", keys) for name in mappings}
    parser = _parser(defaults, prog)
    try:
        tree = _build(type(defaults), parser.parse_args(arguments))
    except argparse.ArgumentError as error:
        raise ConfigError(_explain(str(error), keys)) from None
    changed = {name: flatten(getattr(tree, name)) | given for name, given in reaching.items() if given}
    return dataclasses.replace(tree, **changed)


def dump_config(config: Config) -> str:
    """The tree as YAML; `--config` reads it back to an equal `Config`."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def _keys(tree: type, mappings: Mapping[str, type]) -> dict[str, Any]:
    keys = keys_of(tree)
    for name, held in mappings.items():
        keys |= {name: held} | keys_of(held, name + ".")
    return keys


def _preset(name: Any) -> Config:
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is unknown; allowed: {', '.join(PRESETS)}.{nearest(name, PRESETS)}")
    return PRESETS[name]()


def _parser(defaults: Any, prog: str) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=prog, description=type(defaults).__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of these keys; flags win over it.")
    parser.add_class_arguments(type(defaults), as_group=False)
    parser.set_defaults(_leaves(defaults))
    return parser


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; a free mapping is a value."""
    leaves: dict[str, Any] = {}
    for field in dataclasses.fields(tree):
        value = getattr(tree, field.name)
        nested = dataclasses.is_dataclass(value)
        leaves |= _leaves(value, f"{prefix}{field.name}.") if nested else {prefix + field.name: value}
    return leaves


def _arguments(argv: Sequence[str], keys: Mapping[str, Any]) -> list[str]:
    return _join_lists(_long(_underscores(argv)), keys)


def _underscores(argv: Sequence[str]) -> list[str]:
    """`--num-gpus=8` -> `--num_gpus=8`; values stay as they are."""
    return [re.sub(r"^--[^=]+", lambda m: "--" + m[0][2:].replace("-", "_"), word) for word in argv]


def _long(argv: Sequence[str]) -> list[str]:
    """Short names of flags -> the keys that they stand for."""
    words = (word.partition("=") for word in argv)
    return [SHORT.get(flag, flag) + equals + value for flag, equals, value in words]


def _join_lists(argv: Sequence[str], keys: Mapping[str, Any]) -> list[str]:
    """`--data a b --plan_only --scale 4` -> `--data ["a", "b"] --plan_only true --scale 4`: what a list flag takes ends
    at the next flag, and a switch without a value is on."""
    lists = {"--" + key for key, kind in keys.items() if get_origin(kind) is list}
    switches = {"--" + key for key, kind in keys.items() if kind is bool}
    joined: list[str] = []
    words = list(argv)
    while words:
        word, equals, value = words.pop(0).partition("=")
        if equals and word not in lists:
            joined.append(word + equals + value)
            continue
        if equals:
            words.insert(0, value)
        joined.append(word)
        if word in switches and (not words or words[0].startswith("--")):
            joined.append("true")
        if word in lists:
            items: list[str] = []
            while words and not words[0].startswith("--"):
                items.append(words.pop(0))
            if len(items) == 1 and items[0].startswith("[") and items[0].endswith("]"):
                joined.append(items[0])
            else:
                (kind,) = get_args(keys[word[2:]])
                numbers = kind in (int, float)
                joined.append(json.dumps([_number(word, item, kind) for item in items] if numbers else items))
    return joined


def _take(arguments: list[str], prefix: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Removes flags that begin with `prefix` and their values; returns these under what follows it."""
    taken: dict[str, Any] = {}
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if not word.startswith(prefix):
            kept.append(word)
            continue
        flag, equals, value = word.partition("=")
        value = value if equals else next(words, "")
        taken[flag[len(prefix) :]] = yaml.safe_load(value) if get_origin(keys[flag[2:]]) is list else value
    arguments[:] = kept
    return taken


def _number(flag: str, word: str, kind: type) -> float:
    try:
        number: float = kind(word)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{flag[2:]}: {word!r} is not {what}.") from None
    return number


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    for position, word in enumerate(argv):
        if word == flag and position + 1 < len(argv):
            return argv[position + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return None


def _file_values(argv: Sequence[str], keys: Mapping[str, Any]) -> dict[str, Any]:
    """What the YAML file says that the flags name; nothing where they name none. Errors: ConfigError for its keys."""
    file = _value_of("--config", argv)
    if file is None:
        return {}
    values = _read_yaml(Path(file))
    _refuse_wrong_keys(values, file, keys)
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(), _EachKeyOnce)
    except OSError as error:
        raise ConfigError(f"config: cannot read {path}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config: {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"config: {path} holds {type(values).__name__}, expected a mapping of keys to values.")
    return values


class _EachKeyOnce(yaml.SafeLoader):
    """YAML's own would take the last of two values for one key, and say nothing of the other."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in names and name != "<<":
                raise yaml.constructor.ConstructorError(problem=f"{name} is there twice", problem_mark=key.start_mark)
            names.add(name)
        return super().construct_mapping(node, deep)


def _refuse_wrong_keys(values: Mapping[Any, Any], where: str, known: Mapping[str, Any], prefix: str = "") -> None:
    """Unknown keys, groups that are no mappings, and empty values where there must be one."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}.{nearest(key, known)} `--help-all` lists all keys.")
        if dataclasses.is_dataclass(known[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {key} is a group of keys, got {value!r}; expected `{key}: {{...}}`.")
            _refuse_wrong_keys(value, where, known, key + ".")
        elif value is None and type(None) not in get_args(known[key]):
            raise ConfigError(f"{where}: {key} has no value; expected {_kind_text(known[key])}.")
        elif known[key] is str and not isinstance(value, str):
            raise ConfigError(f"{where}: {key}: {value!r} is not of type str; put it into quotes.")


def _refuse_unknown_flags(argv: Sequence[str], keys: Mapping[str, Any]) -> None:
    known = [*keys, "config", "help", "print_config"]
    for word in argv:
        flag = word.split("=", 1)[0]
        if flag.startswith("--") and flag[2:].rstrip("+") not in known:
            close = nearest(flag, ["--" + key for key in known])
            raise ConfigError(f"unknown flag {flag}.{close} `--help-all` lists all flags.")


def _explain(message: str, keys: Mapping[str, Any]) -> str:
    """jsonargparse's words for a wrong value, with the field's choices and the nearest of them."""
    found = re.match(r'Parser key "([\w.]+)":.*Got value: (.*?)$', message, re.DOTALL | re.MULTILINE)
    kind = keys.get(found[1]) if found else None
    if not found or kind is None:
        return message
    key, value = found[1], found[2].strip()
    if get_origin(kind) is list and get_origin(get_args(kind)[0]) is Literal:
        return f"{key}: {value} is not allowed; any of {', '.join(map(str, get_args(get_args(kind)[0])))}."
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return f"{key}: {value!r} is not allowed; one of {', '.join(map(str, choices))}.{nearest(value, choices)}"
    return f"{key}: {value!r} is not of type {_kind_text(kind)}."


def _kind_text(kind: Any) -> str:
    if get_origin(kind) is dict or dataclasses.is_dataclass(kind):
        return "mapping of keys to values"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _build(kind: Any, value: Any) -> Any:
    """Parsed values -> instance of a dataclass tree."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{f.name: _build(hints[f.name], value[f.name]) for f in dataclasses.fields(kind)})  # type: ignore[operator]
    if get_origin(kind) is Literal:
        # 4.0 equals the choice 4 and passes for it; what goes on is the choice.
        return next(choice for choice in get_args(kind) if choice == value)
    return value
