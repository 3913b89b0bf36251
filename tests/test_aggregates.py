"""Room for the images of a sweep's aggregators."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mtkd_tune.aggregates import forget_aggregates, holding

SIZE = 1000


def fill(folder: Path) -> Path:
    """As rendering does."""
    image = folder / "digest" / "00000.npy"
    image.parent.mkdir(exist_ok=True)
    image.write_bytes(bytes(SIZE))
    return image


def hold(output: Path, key: str, max_bytes: int) -> contextlib.AbstractContextManager[Path]:
    return holding(output, key, SIZE, output / "answers", max_bytes)


def test_images_that_nobody_holds_go_where_there_is_no_room_for_others_the_oldest_first(tmp_path: Path) -> None:
    images = {}
    for key in ("a", "b"):
        with hold(tmp_path, key, 2 * SIZE) as folder:
            images[key] = fill(folder)
    with hold(tmp_path, "a", 2 * SIZE):
        pass
    with hold(tmp_path, "c", 2 * SIZE):
        assert (images["a"].exists(), images["b"].exists()) == (True, False)


def test_images_stay_while_there_is_room(tmp_path: Path) -> None:
    with hold(tmp_path, "a", 2 * SIZE) as folder:
        image = fill(folder)
    with hold(tmp_path, "b", 2 * SIZE):
        assert image.exists()


def test_images_that_are_held_stay_and_who_finds_no_room_is_refused_with_words(tmp_path: Path) -> None:
    with hold(tmp_path, "a", 2 * SIZE - 1) as folder:
        image = fill(folder)
        with (
            pytest.raises(ValueError, match=r"answers\.max_bytes allows .* so those of 1 fit at a time"),
            hold(tmp_path, "b", 2 * SIZE - 1),
        ):
            pass
        assert image.exists()


def test_room_is_promised_before_the_images_are_there(tmp_path: Path) -> None:
    with hold(tmp_path, "a", 2 * SIZE - 1), pytest.raises(ValueError, match="fit at a time"):
        hold(tmp_path, "b", 2 * SIZE - 1).__enter__()


def test_two_trials_with_the_same_aggregator_take_its_room_once(tmp_path: Path) -> None:
    with hold(tmp_path, "a", SIZE) as one, hold(tmp_path, "a", SIZE) as other:
        assert one == other


def test_the_teachers_images_take_from_the_same_room(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "image.npy").write_bytes(bytes(SIZE))
    with pytest.raises(ValueError, match="so those of 0 fit"):
        hold(tmp_path, "a", 2 * SIZE - 1).__enter__()


def test_who_is_killed_holds_nothing_any_more(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from mtkd_tune.aggregates import holding\n"
        "output = pathlib.Path(sys.argv[1])\n"
        f"with holding(output, 'a', {SIZE}, output / 'answers', {SIZE}):\n"
        "    print('held', flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="fit at a time"):
            hold(tmp_path, "b", SIZE).__enter__()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with hold(tmp_path, "b", SIZE) as folder:
        assert folder.is_dir()


def test_a_finished_sweep_keeps_no_images_of_aggregators(tmp_path: Path) -> None:
    with hold(tmp_path, "a", SIZE) as folder:
        image = fill(folder)
    forget_aggregates(tmp_path)
    forget_aggregates(tmp_path)
    assert not image.exists()
