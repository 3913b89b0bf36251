"""Which files are meant, what each becomes, and that nothing is written over."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mtkd_dist.config.load import ConfigError, nearest
from mtkd_dist.data.images import IMAGE_SUFFIXES, image_files, is_image_name
from mtkd_dist.pictures import FORMATS, format_of
from mtkd_dist.pools.upscale import PictureFile


def pictures_in(words: Sequence[str], output: Path) -> dict[Path, Path]:
    """Each file that `words` mean -> its place below the output folder; none twice.

    A file becomes one of its name. Of a folder, and of what a pattern's folders hold (those before its first wildcard),
    the structure is kept. What lies in an output folder below is left out, as it was made by an earlier command, and
    what is hidden in a folder.

    Errors: ConfigError for a word that means no image.
    """
    places: dict[Path, Path] = {}
    seen: set[str] = set()
    for word in words:
        for file, place in _files(word, output):
            if (real := os.path.realpath(file)) not in seen:
                seen.add(real)
                places[file] = place
    return places


def _files(word: str, output: Path) -> Iterable[tuple[Path, Path]]:
    if not word.strip():  # Path("") is the current folder
        raise ConfigError(f"{word!r} is no file, folder or pattern; is a variable of the shell not set?")
    path = Path(word)
    if path.is_dir():
        return _below(path, _images_of(path), output)
    if path.exists():
        return [(path, Path(path.name))]
    if glob.has_magic(word):
        return _matches(word, output)
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ConfigError(f"{word!r}: there is no such file or folder.{nearest(path.name, beside)}")


def _images_of(folder: str | Path) -> list[str]:
    """Those that are not hidden: macOS puts a `._a.jpg`, which is no picture, beside each a.jpg on foreign disks."""
    try:
        files = image_files(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    seen = [file for file in files if not _is_hidden(Path(file).relative_to(folder))]
    if not seen:
        raise ConfigError(f"no images in {folder} but hidden ones; name them one by one, if they are meant")
    return seen


def _is_hidden(below: Path) -> bool:
    return any(part.startswith(".") for part in below.parts)


def _matches(pattern: str, output: Path) -> list[tuple[Path, Path]]:
    names: list[str] = []
    others = 0
    for match in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(match):
            with contextlib.suppress(ConfigError):  # no images in it
                names += _images_of(match)
        elif is_image_name(os.path.basename(match)):
            names.append(match)
        else:
            others += 1
    found = _below(_without_wildcards(Path(pattern)), names, output)
    if not found:
        more = f", but {others} other file{'s' if others > 1 else ''}" if others else ""
        raise ConfigError(f"{pattern!r} matches no image ({' '.join(sorted(IMAGE_SUFFIXES))}){more}")
    return found


def _below(root: Path, names: Iterable[str], output: Path) -> list[tuple[Path, Path]]:
    """Files below a folder, and where there; without those of an output folder that itself lies below."""
    made = output.resolve()
    files = [Path(name) for name in names]
    if made == root.resolve():
        return [(file, file.relative_to(root)) for file in files]
    return [(file, file.relative_to(root)) for file in files if made not in file.resolve().parents]


def _without_wildcards(pattern: Path) -> Path:
    """The folder that everything which a pattern matches lies in."""
    parts: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def files_to_make(words: Sequence[str], output: Path, format: str | None, suffix: str) -> list[PictureFile]:
    """What the files that `words` mean become: below a folder, or the one file that `output` names.

    Errors: ConfigError, also where the name of a picture is given for anything else than one file.
    """
    places = pictures_in(words, output)
    if not names_picture(output):
        return files_of(places, output, format, suffix)
    one_file = len(words) == 1 and Path(words[0]).is_file()
    if one_file and format is None and not suffix and _can_be_written(output):
        return [PictureFile(Path(words[0]), output, format_of(output))]
    endings = " ".join(kind.suffix for kind in FORMATS.values())
    raise ConfigError(
        f"--output {output} names a picture; expected a folder, or of one input file a name that ends with one of "
        f"{endings}, without --format and --suffix"
    )


def names_picture(output: Path) -> bool:
    return is_image_name(output.name) and not output.is_dir()


def files_of(places: dict[Path, Path], output: Path, format: str | None, suffix: str) -> list[PictureFile]:
    """What each file becomes. `format`: None for that of the file; `suffix` goes between name and ending."""
    files = []
    for source, place in places.items():
        wanted = format or format_of(place)
        # A format of its own keeps its ending, be it .JPG or .tiff.
        ending = place.suffix if format is None and _can_be_written(place) else FORMATS[wanted].suffix
        files.append(PictureFile(source, output / place.with_name(f"{place.stem}{suffix}{ending}"), wanted))
    return files


def _can_be_written(place: Path) -> bool:
    return is_image_name(place.name) and (place.suffix.lower() == ".png" or format_of(place) != "png")


def without_results(files: Sequence[PictureFile]) -> list[PictureFile]:
    """Those that no other file becomes: where the output folder is that of the input, these are earlier results.

    Not for a command that writes over what is there: they might be pictures of somebody, too.
    """
    becomes = {os.path.realpath(file.source): os.path.realpath(file.target) for file in files}
    results = {target for source, target in becomes.items() if target != source}
    return [file for file in files if os.path.realpath(file.source) not in results]


def check_targets(files: Sequence[PictureFile], overwrite: bool) -> None:
    """Nothing that is there is written over, unless it is meant to be; an input never.

    Errors: ConfigError naming the files and what mends it.
    """
    sources = {os.path.realpath(file.source): file.source for file in files}
    taken: dict[str, Path] = {}
    for file in files:
        target = os.path.realpath(file.target)
        if target in taken:
            raise ConfigError(
                f"{taken[target]} and {file.source} would both become {file.target}; give them in two commands with an "
                "--output each"
            )
        taken[target] = file.source
        if target in sources:
            mend = "or --suffix _large" if sources[target] == file.source else "or leave one of them out"
            raise ConfigError(
                f"{file.source} would be written over {sources[target]}, which is to be read; give another --output, "
                f"{mend}"
            )
        if file.target.is_dir():
            raise ConfigError(f"{file.source} would become {file.target}, which is a folder; give another --output")
    if not overwrite and (there := existing(files)):
        raise ConfigError(
            f"{len(there)} of {len(files)} pictures are there already ({_first(there)}); --skip-existing leaves "
            "them as they are, --force writes over them"
        )


def existing(files: Iterable[PictureFile]) -> list[Path]:
    return [file.target for file in files if file.target.exists()]


def _first(paths: Sequence[Path]) -> str:
    return f"{paths[0]}, ..." if len(paths) > 1 else str(paths[0])
