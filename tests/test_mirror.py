"""An output folder that is a URL: what is brought up, what comes down elsewhere, and who may write there."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from mtkd_dist.stages import mirror as mirror_module
from mtkd_dist.stages.mirror import Mirror, MirrorError, mirrored, working_folder
from tests.objects import Objects

URL = "objects://bucket/runs/x"


@pytest.fixture(autouse=True)
def quick(objects: type[Objects], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "PASS_SECONDS", 0.02)
    monkeypatch.setattr(mirror_module, "SILENT_SECONDS", 0.2)


def machine(tmp_path: Path, name: str) -> Path:
    """The working folder of a machine of its own."""
    folder = tmp_path / name / "x"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def there() -> dict[str, bytes]:
    """What the URL holds, without the sign of who wrote it."""
    root = "/bucket/runs/x/"
    found = {name.removeprefix(root): Objects().cat_file(name) for name in Objects().find(root)}
    return {name: content for name, content in found.items() if name != mirror_module.WRITER}


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_path_is_worked_in_directly(tmp_path: Path) -> None:
    assert working_folder(str(tmp_path / "a")) == tmp_path / "a"
    assert working_folder(f"file://{tmp_path}/a") == tmp_path / "a"
    with mirrored(str(tmp_path), tmp_path, print), mirrored(f"file://{tmp_path}", tmp_path, print):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_url_has_one_working_folder_of_its_name(tmp_path: Path) -> None:
    assert working_folder(URL) == working_folder(URL + "/")
    assert working_folder(URL).name == "x"
    assert working_folder(URL) != working_folder("objects://bucket/other/x")
    assert working_folder(URL).is_relative_to(tmp_path / "cache")


def test_all_is_brought_up_but_what_can_be_made_again_and_what_is_half_written(tmp_path: Path) -> None:
    folder = machine(tmp_path, "a")
    with mirrored(URL, folder, print):
        write(folder, student_safetensors="s", distil__manifest_json="m", launch_log="l", config_yaml="c")
        write(folder, images__train__hr_u8="big", distil__step_pt_1_tmp="half")
        (folder / ".lock").touch()
        (folder / "teacher-outputs").mkdir()
        (folder / "teacher-outputs" / "a.bin").write_text("big")
    assert there() == {
        "student.safetensors": b"s",
        "distil/manifest.json": b"m",
        "launch.log": b"l",
        "config.yaml": b"c",
    }


def test_changes_are_brought_up_while_the_run_goes_on_and_deletions_too(tmp_path: Path) -> None:
    folder = machine(tmp_path, "a")
    mirror = Mirror(URL, folder, print)
    mirror.claim()
    write(folder, a_txt="1", b_txt="1")
    mirror.up()
    assert there() == {"a.txt": b"1", "b.txt": b"1"}
    Objects.sent.clear()
    write(folder, b_txt="22")
    (folder / "a.txt").unlink()
    mirror.up()
    assert there() == {"b.txt": b"22"}
    assert Objects.sent == ["/bucket/runs/x/b.txt"], "what has not changed is not sent again"


def test_logs_come_before_checkpoints_and_those_before_what_says_that_they_are_whole(tmp_path: Path) -> None:
    folder = machine(tmp_path, "a")
    mirror = Mirror(URL, folder, print)
    mirror.claim()
    write(folder, distil__manifest_json="", distil__step_pt="", distil__z_jsonl="")
    mirror.up()
    assert [name.rpartition("/")[2] for name in Objects.sent] == [
        "z.jsonl",
        "step.pt",
        "manifest.json",
    ]


def test_a_data_base_is_brought_up_whole_while_it_is_written_to(tmp_path: Path) -> None:
    folder = machine(tmp_path, "a")
    mirror = Mirror(URL, folder, print)
    mirror.claim()
    with sqlite3.connect(folder / "mlflow.db") as data_base:
        data_base.execute("create table t (x)")
        data_base.execute("insert into t values (1)")
        data_base.commit()
        data_base.execute("insert into t values (2)")  # not committed
        mirror.up()
    (tmp_path / "copy.db").write_bytes(there()["mlflow.db"])
    assert sqlite3.connect(tmp_path / "copy.db").execute("select x from t").fetchall() == [(1,)]


def test_another_machine_goes_on_from_what_the_url_holds(tmp_path: Path) -> None:
    first, second = machine(tmp_path, "a"), machine(tmp_path, "b")
    with mirrored(URL, first, print):
        write(first, distil__step_pt="100", launch_log="of the first")
    write(second, left_txt="of a run long ago", launch_log="of the second", images__hr_u8="kept")
    with mirrored(URL, second, print):
        assert (second / "distil" / "step.pt").read_text() == "100"
        assert not (second / "left.txt").exists()
        assert (second / "images" / "hr.u8").read_text() == "kept"
        write(second, distil__step_pt="200")
    (earlier,) = second.glob("launch-*.log")
    assert (earlier.read_text(), (second / "launch.log").read_text()) == ("of the first", "of the second")
    assert set(there()) == {"distil/step.pt", "launch.log", earlier.name}
    with mirrored(URL, first, print):
        assert (first / "distil" / "step.pt").read_text() == "200"


def test_the_same_machine_keeps_what_it_could_not_bring_up(tmp_path: Path) -> None:
    folder = machine(tmp_path, "a")
    killed = Mirror(URL, folder, print)
    killed.claim()
    write(folder, step_pt="100")
    killed.up()
    write(folder, step_pt="200")  # and killed
    Objects.fetched.clear()
    with mirrored(URL, folder, print):
        assert (folder / "step.pt").read_text() == "200"
    assert Objects.fetched == []
    assert there() == {"step.pt": b"200"}


def test_a_working_folder_that_was_half_brought_down_is_brought_down_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machine(tmp_path, "a"), machine(tmp_path, "b")
    with mirrored(URL, first, print):
        write(first, a_txt="1", b_txt="2", c_txt="3")
    real = Objects.get_file

    def dies(self: Objects, rpath: str, lpath: str, **kwargs: object) -> None:
        if rpath.endswith("b.txt"):
            raise KeyboardInterrupt
        real(self, rpath, lpath, **kwargs)

    monkeypatch.setattr(Objects, "get_file", dies)
    with pytest.raises(KeyboardInterrupt), mirrored(URL, second, print):
        raise AssertionError("began with half of the files")
    monkeypatch.setattr(Objects, "get_file", real)
    with mirrored(URL, second, print):
        assert sorted(path.name for path in second.glob("*.txt")) == ["a.txt", "b.txt", "c.txt"]
    assert len(there()) == 3


def test_a_url_that_was_emptied_begins_anew(tmp_path: Path) -> None:
    folder = machine(tmp_path, "a")
    with mirrored(URL, folder, print):
        write(folder, a_txt="1")
    Objects.empty()
    with mirrored(URL, folder, print):
        assert not (folder / "a.txt").exists()


def test_a_launch_that_is_at_work_elsewhere_is_not_disturbed(tmp_path: Path) -> None:
    first, second = machine(tmp_path, "a"), machine(tmp_path, "b")
    with (
        mirrored(URL, first, print),
        pytest.raises(MirrorError, match=f"another launch is at work in {URL}"),
        mirrored(URL, second, print),
    ):
        raise AssertionError("two launches in one place")


def test_a_launch_that_was_killed_elsewhere_is_taken_over_after_a_silence(tmp_path: Path) -> None:
    first, second = machine(tmp_path, "a"), machine(tmp_path, "b")
    killed = Mirror(URL, first, print)
    killed.claim()
    write(first, a_txt="1")
    killed.up()
    said: list[str] = []
    with mirrored(URL, second, said.append):
        assert (second / "a.txt").read_text() == "1"
    assert "watching for a sign of life" in said[0]


def test_a_launch_that_was_taken_over_writes_no_more_and_says_where_its_work_is(tmp_path: Path) -> None:
    first, second = machine(tmp_path, "a"), machine(tmp_path, "b")
    slept = Mirror(URL, first, print)
    slept.claim()
    with mirrored(URL, second, print):
        write(second, a_txt="of the second")
    write(first, a_txt="of the first")
    slept.beat()
    slept.pass_on()
    with pytest.raises(MirrorError, match=f"taken over.*lies in {first}"):
        slept.finish()
    assert there() == {"a.txt": b"of the second"}


def test_an_outage_is_told_once_and_made_up_for(tmp_path: Path) -> None:
    folder = machine(tmp_path, "a")
    said: list[str] = []
    mirror = Mirror(URL, folder, said.append)
    mirror.claim()
    write(folder, a_txt="1")
    Objects.down = True
    for _ in range(3):
        mirror.beat()
        mirror.pass_on()
    assert len(said) == 1
    assert "sent later" in said[0]
    Objects.down = False
    mirror.pass_on()
    assert there() == {"a.txt": b"1"}


def test_an_end_that_cannot_be_brought_up_is_an_error_that_says_where_it_is(tmp_path: Path) -> None:
    folder = machine(tmp_path, "a")
    mirror = Mirror(URL, folder, print)
    mirror.claim()
    write(folder, a_txt="1")
    Objects.down = True
    with pytest.raises(MirrorError, match=f"is in {folder}, and could not be brought to"):
        mirror.finish()
    Objects.down = False
    with mirrored(URL, folder, print):
        pass
    assert there() == {"a.txt": b"1"}


def fail_while_the_store_is_down(folder: Path, said: list[str]) -> None:
    with mirrored(URL, folder, said.append):
        Objects.down = True
        raise RuntimeError("of the run")


def test_the_error_of_a_run_is_not_hidden_by_one_of_the_url(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(RuntimeError, match="of the run"):
        fail_while_the_store_is_down(machine(tmp_path, "a"), said)
    assert "could not be brought to" in said[-1]


def test_the_sign_says_who_is_at_work(tmp_path: Path) -> None:
    sign = f"/bucket/runs/x/{mirror_module.WRITER}"
    with mirrored(URL, machine(tmp_path, "a"), print):
        during = json.loads(Objects().cat_file(sign))
    after = json.loads(Objects().cat_file(sign))
    assert (during["at_work"], during["process"]) == (True, os.getpid())
    assert after["at_work"] is False
