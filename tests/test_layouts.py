from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mtkd_dist.data import ImageError, PhotoSet, find_photos, list_images


def touch(root: Path, *names: str) -> Path:
    """Empty files: what a folder holds is told from names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def numbered(folder: str, first: int, last: int, digits: int = 4, after: str = "") -> list[str]:
    return [f"{folder}/{i:0{digits}}{after}.png" for i in range(first, last + 1)]


def save(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def pairs_below(found: PhotoSet, root: Path) -> list[tuple[str, str | None]]:
    return [(p.hr.relative_to(root).as_posix(), p.lr and p.lr.relative_to(root).as_posix()) for p in found.photos]


def validation_below(found: PhotoSet, root: Path) -> list[str]:
    return [photo.hr.relative_to(root).as_posix() for photo in found.validation]


DIV2K = (
    *numbered("DIV2K_train_HR", 1, 3),
    *numbered("DIV2K_train_LR_bicubic/X2", 1, 3, after="x2"),
    *numbered("DIV2K_train_LR_bicubic/X4", 1, 3, after="x4"),
    *numbered("DIV2K_train_LR_unknown/X4", 1, 3, after="x4"),
    *numbered("DIV2K_valid_HR", 801, 802),
    *numbered("DIV2K_valid_LR_bicubic/X4", 801, 802, after="x4"),
)
FLICKR2K = (
    *numbered("Flickr2K_HR", 1, 2, digits=6),
    *numbered("Flickr2K_LR_bicubic/X4", 1, 2, digits=6, after="x4"),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    st.sets(st.lists(st.sampled_from(["a", "b", "lake", "2024"]), min_size=1, max_size=3).map("/".join), min_size=1),
    st.sampled_from([None, 2, 3, 4]),
)
def test_every_image_under_a_plain_folder_is_a_photograph(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], scale: int | None
) -> None:
    root = touch(tmp_path_factory.mktemp("plain"), *(f"{name}.jpg" for name in names), "notes.txt")
    found = find_photos(root, scale)
    assert [photo.hr for photo in found.photos] == list_images(root)
    assert not any(photo.lr for photo in found.photos)
    assert (found.layout, found.scales, found.validation) == ("photographs", (), [])


def test_one_file_is_one_photograph(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    found = find_photos(tmp_path / "a.png")
    assert (pairs_below(found, tmp_path), found.layout) == ([("a.png", None)], "one photograph")


@pytest.mark.parametrize("given_folder", [".", "DIV2K_train_HR"])
def test_div2k_is_recognised_by_its_root_and_by_its_training_folder(tmp_path: Path, given_folder: str) -> None:
    found = find_photos(touch(tmp_path, *DIV2K) / given_folder, 4)
    assert pairs_below(found, tmp_path) == [
        (f"DIV2K_train_HR/000{i}.png", f"DIV2K_train_LR_bicubic/X4/000{i}x4.png") for i in (1, 2, 3)
    ]
    assert validation_below(found, tmp_path) == ["DIV2K_valid_HR/0801.png", "DIV2K_valid_HR/0802.png"]
    assert found.validation[0].lr == tmp_path / "DIV2K_valid_LR_bicubic" / "X4" / "0801x4.png"
    assert (found.layout, found.scales) == ("DIV2K with DIV2K_train_LR_bicubic/X4", (2, 4))


def test_the_validation_folder_alone_is_a_set_of_photographs(tmp_path: Path) -> None:
    found = find_photos(touch(tmp_path, *DIV2K) / "DIV2K_valid_HR", 4)
    assert pairs_below(found, tmp_path) == [
        (f"DIV2K_valid_HR/080{i}.png", f"DIV2K_valid_LR_bicubic/X4/080{i}x4.png") for i in (1, 2)
    ]
    assert found.validation == []


@pytest.mark.parametrize("scale", [3, None])
def test_lr_is_made_for_a_scale_that_is_not_at_hand_or_not_known(tmp_path: Path, scale: int | None) -> None:
    found = find_photos(touch(tmp_path, *DIV2K), scale)
    assert all(photo.lr is None for photo in found.photos + found.validation)
    assert (found.layout, found.scales) == ("DIV2K", (2, 4))


def test_the_only_scale_at_hand_is_taken_where_none_is_asked_for(tmp_path: Path) -> None:
    found = find_photos(touch(tmp_path, *FLICKR2K))
    assert found.scales == (4,)
    assert all(photo.lr for photo in found.photos)


def test_case_of_folder_names_does_not_matter(tmp_path: Path) -> None:
    found = find_photos(touch(tmp_path, "hr/a.png", "lr_bicubic/x4/ax4.png"), 4)
    assert pairs_below(found, tmp_path) == [("hr/a.png", "lr_bicubic/x4/ax4.png")]


@pytest.mark.parametrize("folders", [("", ""), ("DIV2K/", "Flickr2K/"), ("", "Flickr2K/")])
def test_a_folder_of_several_data_sets_is_all_of_them(tmp_path: Path, folders: tuple[str, str]) -> None:
    touch(tmp_path, *(folders[0] + name for name in DIV2K), *(folders[1] + name for name in FLICKR2K))
    found = find_photos(tmp_path, 4)
    assert found.layout == "DIV2K with DIV2K_train_LR_bicubic/X4 + Flickr2K with Flickr2K_LR_bicubic/X4"
    assert (len(found.photos), len(found.validation)) == (5, 2)
    assert all(photo.lr for photo in found.photos)


LSDIR = (*numbered("0001000", 1, 2, digits=7), *numbered("0002000", 1001, 1002, digits=7))


def lsdir(before: str, after: str = "") -> list[str]:
    return [before + (name.replace(".png", f"{after}.png")) for name in LSDIR]


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("", ""),
        ("", "X4/"),
        ("", "LR_bicubic/X4/"),
        ("HR/", "X4/"),
        ("HR/train/", "X4/train/"),
        ("LSDIR_train_HR/", ""),
    ],
)
def test_lsdir_is_recognised_with_its_shards_under_the_root_or_under_hr(tmp_path: Path, hr: str, lr: str) -> None:
    touch(tmp_path, *lsdir(hr), *(lsdir(lr, "x4") if lr else []))
    found = find_photos(tmp_path, 4)
    expected = zip(lsdir(hr), lsdir(lr, "x4") if lr else [None] * 4, strict=True)
    assert pairs_below(found, tmp_path) == list(expected)
    assert found.scales == ((4,) if lr else ())


@pytest.mark.parametrize("validation", ["val1/HR/val/0000001.png", "HR/val/0000001.png"])
def test_the_validation_part_of_lsdir_is_kept_apart(tmp_path: Path, validation: str) -> None:
    found = find_photos(touch(tmp_path, *lsdir("HR/train/"), validation, *lsdir("X4/train/", "x4")), 4)
    assert (len(found.photos), validation_below(found, tmp_path)) == (4, [validation])
    assert found.layout == "LSDIR with X4/train"


@pytest.mark.parametrize("given_folder", ["Set5", "Set5/HR"])
def test_the_benchmark_layout_of_set5_is_paired_at_every_scale_that_it_has(shared_dir: Path, given_folder: str) -> None:
    root = shared_dir / "data" / "test"
    found = find_photos(root / given_folder, 3)
    assert found.scales == (2, 3, 4, 8)
    assert found.layout == "HR with LR_bicubic/X3"
    names = ["baby", "bird", "butterfly", "head", "woman"]
    assert pairs_below(found, root) == [(f"Set5/HR/{n}.png", f"Set5/LR_bicubic/X3/{n}x3.png") for n in names]


def test_basicsr_benchmarks_are_paired(tmp_path: Path) -> None:
    found = find_photos(touch(tmp_path, "GTmod12/a.png", "LRbicx3/a.png", "LRbicx4/a.png"), 3)
    assert (pairs_below(found, tmp_path), found.scales) == ([("GTmod12/a.png", "LRbicx3/a.png")], (3, 4))


@pytest.mark.parametrize("given_folder", [".", "GT"])
@pytest.mark.parametrize("scale", [3, None])
def test_gt_and_lq_tell_their_scale_by_their_sizes(tmp_path: Path, given_folder: str, scale: int | None) -> None:
    for name in ("a", "b"):
        save(tmp_path / "GT" / f"{name}.png", 31, 62)
        save(tmp_path / "LQ" / f"{name}.png", 10, 20)
    found = find_photos(tmp_path / given_folder, scale)
    assert pairs_below(found, tmp_path) == [("GT/a.png", "LQ/a.png"), ("GT/b.png", "LQ/b.png")]
    assert (found.scales, found.layout) == ((3,), "BasicSR GT with LQ")


def test_gt_and_lq_of_no_whole_scale_are_refused_with_both_sizes(tmp_path: Path) -> None:
    save(tmp_path / "GT" / "a.png", 30, 60)
    save(tmp_path / "LQ" / "a.png", 10, 30)
    with pytest.raises(ImageError, match=r"LQ/a\.png: 10x30 pixels.*GT/a\.png has 30x60.*1/2, 1/3 or 1/4"):
        find_photos(tmp_path)


SUB = [
    f"{folder}/0001_s00{i}.png" for folder in ("DIV2K_train_HR_sub", "DIV2K_train_LR_bicubic/X4_sub") for i in (1, 2, 3)
]


def test_sub_images_are_paired_by_their_equal_names(tmp_path: Path) -> None:
    found = find_photos(touch(tmp_path, *SUB), 4)
    assert pairs_below(found, tmp_path) == list(zip(SUB[:3], SUB[3:], strict=True))
    assert found.layout == "BasicSR sub-images of DIV2K with DIV2K_train_LR_bicubic/X4_sub"


def test_sub_images_beside_the_photographs_that_they_were_cut_from_do_not_count_twice(tmp_path: Path) -> None:
    assert len(find_photos(touch(tmp_path, *DIV2K, *SUB), 4).photos) == 3
    assert len(find_photos(tmp_path / "DIV2K_train_HR_sub", 4).photos) == 3


@pytest.mark.parametrize(
    "place", ["meta_info_sub_GT.txt", "DIV2K_train_HR_sub/meta_info.txt", "meta_info/meta_info.txt"]
)
@pytest.mark.parametrize("prefix", ["", "DIV2K_train_HR_sub/"])
def test_meta_info_says_which_files_count_and_in_which_order(tmp_path: Path, place: str, prefix: str) -> None:
    touch(tmp_path, *SUB, place)
    (tmp_path / place).write_text(f"{prefix}0001_s003.png (480,480,3)\n{prefix}0001_s001.png (480, 480, 3) 1\n\n")
    found = find_photos(tmp_path, 4)
    assert pairs_below(found, tmp_path) == [(SUB[2], SUB[5]), (SUB[0], SUB[3])]
    assert found.layout.endswith("(meta_info)")


def test_names_with_blanks_in_meta_info_are_whole(tmp_path: Path) -> None:
    touch(tmp_path, "GT/my photo.png", "GT/other.png")
    (tmp_path / "meta_info.txt").write_text("my photo.png (10,10,3)\nother.png\n")
    assert [photo.hr.name for photo in find_photos(tmp_path).photos] == ["my photo.png", "other.png"]


def test_a_listed_file_that_is_absent_is_named_with_its_place(tmp_path: Path) -> None:
    touch(tmp_path, *SUB)
    (tmp_path / "meta_info.txt").write_text("0001_s001.png (480,480,3)\n0001_s009.png (480,480,3)\n")
    with pytest.raises(ImageError, match=r"meta_info\.txt: lists 0001_s009\.png.*DIV2K_train_HR_sub/0001_s009\.png"):
        find_photos(tmp_path)


def test_two_lists_are_refused_by_name(tmp_path: Path) -> None:
    touch(tmp_path, *SUB, "meta_info_a.txt", "meta_info_b.txt")
    with pytest.raises(ValueError, match=r"meta_info_a\.txt and meta_info_b\.txt.*DIV2K_train_HR_sub.*keep one"):
        find_photos(tmp_path)


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"meta_info\.txt: lists no photographs"):
        find_photos(touch(tmp_path, *SUB, "meta_info.txt"))


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("DIV2K_train_LR_bicubic/X4/0002x4.png", r"DIV2K_train_HR/0002\.png: .*expected .*/X4/0002x4\.png"),
        ("DIV2K_train_HR/0002.png", r"X4/0002x4\.png: .*expected .*/DIV2K_train_HR/0002\.png"),
        ("DIV2K_valid_LR_bicubic/X4/0802x4.png", r"DIV2K_valid_HR/0802\.png: .*expected .*/X4/0802x4\.png"),
    ],
)
def test_an_image_without_its_partner_is_named_with_the_place_of_the_partner(
    tmp_path: Path, gone: str, message: str
) -> None:
    (touch(tmp_path, *DIV2K) / gone).unlink()
    with pytest.raises(ImageError, match=message):
        find_photos(tmp_path, 4)


def test_two_hr_images_for_one_lr_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"HR/a\.png: a second HR image for .*X4/ax4\.png"):
        find_photos(touch(tmp_path, "HR/a.jpg", "HR/a.png", "X4/ax4.png"), 4)


def test_other_folders_beside_a_folder_train_are_photographs_like_it(tmp_path: Path) -> None:
    found = find_photos(touch(tmp_path, "HR/train/a.png", "HR/test/b.png", "HR/val/c.png"))
    assert len(found.photos) == 3


@pytest.mark.parametrize("name", ["DIV2K_train_HR_sub.lmdb", "photos"])
def test_an_lmdb_is_refused_with_what_to_give_instead(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{name}/data.mdb", f"{name}/meta_info.txt")
    for folder in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=rf"{name}: an LMDB .* give the folder of images"):
            find_photos(folder)


def test_an_lmdb_beside_the_images_that_it_was_made_of_is_no_obstacle(tmp_path: Path) -> None:
    assert len(find_photos(touch(tmp_path, *SUB, "DIV2K_train_HR_sub.lmdb/data.mdb")).photos) == 3


@pytest.mark.parametrize("name", ["X4/ax4.png", "LQ/a.png", "DIV2K_train_LR_bicubic/X4/0001x4.png"])
def test_lr_images_alone_are_never_taken_for_photographs(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"name of a folder of LR images, but no folder of HR"):
        find_photos(touch(tmp_path, name, "b.png"))


@pytest.mark.parametrize("name", ["a.png", "other/deep/a.png"])
def test_photographs_beside_a_data_set_are_not_left_out_in_silence(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: a photograph beside the data set of .*DIV2K_train_HR.*one by one"):
        find_photos(touch(tmp_path, *DIV2K, name))


def test_linked_folders_are_searched_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/b.png", "set/a.png")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    assert pairs_below(find_photos(tmp_path / "set"), tmp_path) == [("set/a.png", None), ("set/linked/b.png", None)]


@pytest.mark.parametrize("name", ["gone", "empty", "empty/HR"])
def test_a_folder_that_is_missing_or_empty_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty" / "HR").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"no (such|images).*{name}"):
        find_photos(tmp_path / name)
