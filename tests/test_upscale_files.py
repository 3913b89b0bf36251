"""Which files are meant, what each becomes, and that nothing is written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtkd_dist.config.load import ConfigError
from mtkd_dist.pools.upscale import PictureFile
from mtkd_dist.upscale.files import check_targets, files_of, files_to_make, pictures_in, without_results


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def places(folder: Path, *words: str, output: str = "out") -> dict[str, str]:
    """File -> place, both below `folder`, of words that are below it."""
    found = pictures_in([str(folder / word) for word in words], folder / output)
    return {file.relative_to(folder).as_posix(): place.as_posix() for file, place in found.items()}


def test_a_file_becomes_one_of_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/c.png", "odd name[1].jpg")
    assert places(tmp_path, "a/b/c.png", "odd name[1].jpg") == {
        "a/b/c.png": "c.png",
        "odd name[1].jpg": "odd name[1].jpg",
    }


def test_a_folder_keeps_its_structure(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.png", "set/deep/b.JPG", "set/notes.txt", "c.png")
    assert places(tmp_path, "set") == {"set/a.png": "a.png", "set/deep/b.JPG": "deep/b.JPG"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("set/*.png", {"set/a.png": "a.png"}),
        ("set/**/*.png", {"set/a.png": "a.png", "set/deep/b.png": "deep/b.png"}),
        ("s*/deep/b.png", {"set/deep/b.png": "set/deep/b.png"}),
        ("set/d*", {"set/deep/b.png": "deep/b.png"}),
        ("set/**", {"set/a.png": "a.png", "set/deep/b.png": "deep/b.png"}),
        ("set/[a].*", {"set/a.png": "a.png"}),
        ("*", {"set/a.png": "set/a.png", "set/deep/b.png": "set/deep/b.png"}),
    ],
)
def test_a_pattern_keeps_the_structure_of_its_folders(tmp_path: Path, pattern: str, expected: dict[str, str]) -> None:
    touch(tmp_path, "set/a.png", "set/a.txt", "set/deep/b.png", "empty/notes.txt", "out/a.png")
    assert places(tmp_path, pattern) == expected


def test_a_relative_pattern_is_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.png", "b/c.png")
    monkeypatch.chdir(tmp_path)
    found = pictures_in(["*.png", "**/*.png", "."], Path("out"))
    assert {str(file): str(place) for file, place in found.items()} == {"a.png": "a.png", "b/c.png": "b/c.png"}


def test_no_file_is_taken_twice(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "set/a.png")
    assert places(tmp_path, "set", "set/a.png", "set/*.png", "link.png") == {"set/a.png": "a.png"}


def test_what_an_earlier_command_made_is_no_input(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.png", "set/large/a.png", "set/large/deep/b.png")
    assert places(tmp_path, "set", output="set/large") == {"set/a.png": "a.png"}
    assert places(tmp_path, "set/large", output="set/large") == {
        "set/large/a.png": "a.png",
        "set/large/deep/b.png": "deep/b.png",
    }


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("phoots", r"phoots': there is no such file or folder\. Did you mean 'photos'\?"),
        ("photos/*.tif", r"tif' matches no image"),
        ("photos/*.txt", r"matches no image .*, but 1 other file$"),
        ("photos/a.jgp", "there is no such file"),
    ],
)
def test_a_word_that_means_nothing_is_named(tmp_path: Path, word: str, expected: str) -> None:
    touch(tmp_path, "photos/a.png", "photos/notes.txt")
    with pytest.raises(ConfigError, match=expected):
        places(tmp_path, word)


def test_what_is_hidden_in_a_folder_is_not_meant(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.png", "set/._a.png", "set/.thumbs/b.png", ".home/c.png", "none/._d.png")
    assert places(tmp_path, "set") == {"set/a.png": "a.png"}
    assert places(tmp_path, "s*") == {"set/a.png": "set/a.png"}
    assert places(tmp_path, ".home", "set/._a.png") == {".home/c.png": "c.png", "set/._a.png": "._a.png"}
    with pytest.raises(ConfigError, match=r"no images in .*none but hidden ones"):
        places(tmp_path, "none")


@pytest.mark.parametrize("word", ["", " "])
def test_an_empty_word_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    touch(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^'{word}' is no file, folder or pattern; is a variable of the shell not"):
        pictures_in([word], Path("out"))


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "set/notes.txt")
    with pytest.raises(ConfigError, match="no images in"):
        places(tmp_path, "set")


# What each becomes


def targets(format: str | None, suffix: str, *names: str) -> dict[str, str]:
    files = files_of({Path("in", name): Path(name) for name in names}, Path("out"), format, suffix)
    return {file.target.as_posix(): file.format for file in files}


def test_a_file_keeps_its_name_and_format_where_they_can_be_written() -> None:
    names = ("a.png", "b.JPG", "c/d.jpeg", "e.webp", "f.TIFF", "g.bmp", "h")
    assert targets(None, "", *names) == {
        "out/a.png": "png",
        "out/b.JPG": "jpg",
        "out/c/d.jpeg": "jpg",
        "out/e.webp": "webp",
        "out/f.TIFF": "tif",
        "out/g.png": "png",
        "out/h.png": "png",
    }


def test_a_format_and_a_suffix_may_be_given() -> None:
    assert targets("webp", "_x4", "a.b.png", "c/d.jpg") == {"out/a.b_x4.webp": "webp", "out/c/d_x4.webp": "webp"}


def test_one_file_may_be_given_the_name_of_what_it_becomes(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    source, target = tmp_path / "a.png", tmp_path / "new" / "large.JPG"
    assert files_to_make([str(source)], target, None, "") == [PictureFile(source, target, "jpg")]


def test_a_folder_may_have_the_name_of_a_picture_if_it_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "large.png/old.png")
    (found,) = files_to_make([str(tmp_path / "a.png")], tmp_path / "large.png", None, "")
    assert found.target == tmp_path / "large.png" / "a.png"


@pytest.mark.parametrize(
    ("words", "output", "format", "suffix"),
    [
        (["a.png", "b.png"], "large.png", None, ""),
        (["one"], "large.png", None, ""),
        (["one/*"], "large.png", None, ""),
        (["a.png"], "large.bmp", None, ""),
        (["a.png"], "large.png", "jpg", ""),
        (["a.png"], "large.png", None, "_x4"),
    ],
)
def test_the_name_of_a_picture_is_no_folder(
    tmp_path: Path, words: list[str], output: str, format: str | None, suffix: str
) -> None:
    touch(tmp_path, "a.png", "b.png", "one/c.png")
    with pytest.raises(ConfigError, match=rf"{output} names a picture; expected a folder, or of one input file"):
        files_to_make([str(tmp_path / word) for word in words], tmp_path / output, format, suffix)


# Nothing is written over


def file(source: Path, target: Path) -> PictureFile:
    return PictureFile(source, target, "png")


def test_two_files_that_would_become_one_are_refused(tmp_path: Path) -> None:
    files = [file(tmp_path / "a/x.jpg", tmp_path / "x.png"), file(tmp_path / "b/x.jpg", tmp_path / "x.png")]
    with pytest.raises(ConfigError, match=r"a/x\.jpg and .*b/x\.jpg would both become .*x\.png"):
        check_targets(files, overwrite=True)


def test_an_input_is_never_written_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a_x4.png")
    with pytest.raises(ConfigError, match=r"a\.png would be written over .*a\.png, which is to be read"):
        check_targets([file(tmp_path / "a.png", tmp_path / "a.png")], overwrite=True)
    files = [file(tmp_path / "a.png", tmp_path / "a_x4.png"), file(tmp_path / "a_x4.png", tmp_path / "a_x4_x4.png")]
    with pytest.raises(ConfigError, match=r"a_x4\.png, which is to be read; give another --output, or leave one"):
        check_targets(files, overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="which is to be read"):
        check_targets([file(tmp_path / "a.png", tmp_path / "link" / "a.png")], overwrite=True)


def test_what_another_file_becomes_is_a_result_and_no_input(tmp_path: Path) -> None:
    names = {"a": "a_x4", "a_x4": "a_x4_x4", "b": "b_x4"}
    files = [file(tmp_path / f"{source}.png", tmp_path / f"{target}.png") for source, target in names.items()]
    assert [found.source.stem for found in without_results(files)] == ["a", "b"]
    (tmp_path / "link").symlink_to(tmp_path)
    linked = file(tmp_path / "a.png", tmp_path / "link" / "a_x4.png")
    assert without_results([linked, files[1]]) == [linked]


def test_a_file_that_would_become_itself_stays_an_input_to_be_refused(tmp_path: Path) -> None:
    files = [file(tmp_path / "a.png", tmp_path / "a.png")]
    assert without_results(files) == files


def test_what_is_there_is_written_over_only_on_request(tmp_path: Path) -> None:
    touch(tmp_path, "out/a.png", "out/b.png")
    files = [file(tmp_path / f"{name}.png", tmp_path / f"out/{name}.png") for name in "abc"]
    with pytest.raises(ConfigError, match=r"2 of 3 pictures are there .*out/a\.png.*--skip-existing.*--force"):
        check_targets(files, overwrite=False)
    check_targets(files, overwrite=True)


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ConfigError, match=r"a\.png, which is a folder"):
        check_targets([file(tmp_path / "b.png", tmp_path / "a.png")], overwrite=True)
