"""The whole export command, as a user types it: files that answer as the student does, and the ways it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mtkd_dist import evaluate
from mtkd_dist.export import command, onnx_file
from mtkd_dist.export.trace import largest_difference, trace
from mtkd_dist.models import build_network, load_network, read_metadata, save_network
from mtkd_dist.models.spandrel_adapter import allow_torchvision_import
from tests.nets import TINY, Nearest, make_teacher
from tests.runs import make_run

STUDENTS = {
    "edsr": TINY,
    "rcan": "rcan:groups=1,blocks=1,width=16",
    "swinir": "swinir-light:width=12,groups=1,layers=2,heads=2",
    "rlfn": "rlfn:width=8,blocks=1",
}
SIZES = ((1, 1), (17, 30), (64, 64))
"""None of them is one that an export checks by itself."""


def run(*words: object) -> int:
    return command.main([str(word) for word in words])


def save(folder: Path, family: str) -> Path:
    torch.manual_seed(0)
    network = STUDENTS[family]
    save_network(folder / f"{family}.safetensors", build_network(network, 2), {"network": network, "scale": "2"})
    return folder / f"{family}.safetensors"


def answers_equal(answer: object, network: nn.Module, batch: int = 1) -> None:
    for size in SIZES:
        lr = torch.rand(batch, 3, *size)
        torch.testing.assert_close(answer(lr), network(lr), rtol=0, atol=1e-5)  # type: ignore[operator]


def by_onnxruntime(file: Path) -> object:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda lr: torch.from_numpy(session.run(["output"], {"input": lr.numpy()})[0])


# All formats of one tiny student


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a run in all formats, without their endings."""
    folder = tmp_path_factory.mktemp("export")
    assert run(make_run(folder), "--author", "me", "--licence", "MIT", "--output", folder / "out") == 0
    return folder / "out" / "2x-run-1"


@pytest.fixture(scope="module")
def student(exported: Path) -> nn.Module:
    return load_network(exported.parents[1] / "run-1" / "student.safetensors").module


def test_every_format_is_one_file_and_nothing_else_is_left(exported: Path) -> None:
    endings = {file.name.removeprefix(exported.name) for file in exported.parent.iterdir()}
    assert endings == {".safetensors", ".onnx", ".pt2", ".md", ".json"}


def test_the_weights_load_as_before_and_know_where_they_come_from(exported: Path, student: nn.Module) -> None:
    file = exported.with_suffix(".safetensors")
    loaded = load_network(file)
    assert (loaded.architecture, loaded.scale) == (TINY, 2)
    lr = torch.rand(1, 3, 9, 7)
    assert torch.equal(loaded.module(lr), student(lr))
    told = read_metadata(file)
    assert (told["name"], told["author"], told["license"], told["method"]) == ("run-1", "me", "MIT", "mtkd")
    assert json.loads(told["configuration"])["student"] == TINY


def test_onnx_answers_for_any_size_and_batch(exported: Path, student: nn.Module) -> None:
    answer = by_onnxruntime(exported.with_suffix(".onnx"))
    answers_equal(answer, student)
    answers_equal(answer, student, batch=3)


def test_onnx_says_what_it_takes_and_what_it_is(exported: Path) -> None:
    import onnx

    model = onnx.load(exported.with_suffix(".onnx"))
    (lr,), (sr,) = model.graph.input, model.graph.output
    shapes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (lr, sr)]
    assert (lr.name, sr.name) == ("input", "output")
    assert shapes == [["batch", 3, "height", "width"], ["batch", 3, "2*height", "2*width"]]
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == onnx_file.OPSET
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told == {**read_metadata(exported.with_suffix(".safetensors")), "opset": "18"}


def test_the_program_answers_for_any_size_and_batch(exported: Path, student: nn.Module) -> None:
    extra = {"metadata.json": ""}
    answer = torch.export.load(exported.with_suffix(".pt2"), extra_files=extra).module()
    answers_equal(answer, student)
    answers_equal(answer, student, batch=3)
    assert json.loads(extra["metadata.json"]) == read_metadata(exported.with_suffix(".safetensors"))


def test_no_file_names_a_folder_of_the_machine(exported: Path) -> None:
    for file in exported.parent.iterdir():
        content = file.read_bytes()
        for place in (str(exported.parents[1]), str(Path(command.__file__).parents[2])):
            assert place.encode() not in content, file.name


def test_the_card_lists_the_files_as_they_are(exported: Path) -> None:
    model = json.loads(exported.with_suffix(".json").read_text())
    for resource in model["resources"]:
        file = exported.with_suffix(f".{resource['type']}")
        assert resource["size"] == file.stat().st_size
        assert resource["sha256"] in exported.with_suffix(".md").read_text()


def test_nothing_is_written_over_without_force(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (exported.parents[1] / "run-1", "--output", exported.parent, "--formats", "safetensors")
    before = exported.with_suffix(".safetensors").read_bytes()
    assert run(*words) == 2
    assert "2x-run-1.safetensors is there already; give --force" in capsys.readouterr().err
    assert exported.with_suffix(".safetensors").read_bytes() == before
    # The same flags make the same bytes.
    assert run(*words, "--author", "me", "--licence", "MIT", "--force") == 0
    assert exported.with_suffix(".safetensors").read_bytes() == before


@pytest.mark.parametrize("given", [("--author", "张三"), ("--licence", "do what you like"), ("--url", "not a url")])
def test_what_a_catalogue_cannot_take_is_refused_before_anything_is_written(
    tmp_path: Path, given: tuple[str, str]
) -> None:
    assert run(make_teacher(tmp_path, "tiny").path, "--output", tmp_path / "out", *given) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("family", "said"), [("rlfn", "; rlfn is none of its architectures yet)"), ("edsr", "--url)")])
def test_the_command_says_where_the_catalogue_lacks_the_architecture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, said: str
) -> None:
    assert run(save(tmp_path, family), "--formats", "safetensors", "card", "--output", tmp_path / "out") == 0
    assert f"{said}\n" in capsys.readouterr().out


def test_several_files_that_are_there_are_spoken_of_as_several(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (exported.parents[1] / "run-1", "--output", exported.parent, "--formats", "card")
    assert run(*words) == 2
    assert "2x-run-1.json are there already; give --force to write over them, another" in capsys.readouterr().err


def test_a_format_that_is_named_twice_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, out = make_teacher(tmp_path, "tiny").path, tmp_path / "out"
    assert run(given, "--output", out, "--formats", "safetensors", "safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(out / "2x-tiny.safetensors")]


# Who reads the weights of each family


@pytest.mark.parametrize(("family", "known_as"), [("rcan", "RCAN"), ("swinir", "SwinIR"), ("edsr", ""), ("rlfn", "")])
def test_the_command_says_whether_spandrel_reads_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, known_as: str
) -> None:
    allow_torchvision_import()
    import spandrel

    given = save(tmp_path, family)
    assert run(given, "--formats", "safetensors", "--output", tmp_path / "out") == 0
    said, written = capsys.readouterr().out, tmp_path / "out" / f"2x-{family}.safetensors"
    if not known_as:
        assert f"does not know {family.upper()}, and what is built on it can use the ONNX file" in said
        with pytest.raises(spandrel.UnsupportedModelError):
            spandrel.ModelLoader().load_from_file(written)
        return
    assert f"reads it as {known_as}" in said
    theirs = spandrel.ModelLoader().load_from_file(written)
    assert theirs.scale == 2
    lr = torch.rand(1, 3, 19, 22)
    ours = load_network(given).module(lr).clamp(0, 1)
    # Its RCAN writes into its input.
    torch.testing.assert_close(theirs(lr.clone()), ours, rtol=0, atol=1e-6)


def test_the_command_says_where_spandrel_would_answer_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A window of 7 means to spandrel a network for JPEG artefacts, which works on values of 0 to 255.
    network = f"{STUDENTS['swinir']},window=7"
    save_network(tmp_path / "w7.safetensors", build_network(network, 2), {"network": network, "scale": "2"})
    assert run(tmp_path / "w7.safetensors", "--formats", "safetensors", "--output", tmp_path / "out") == 0
    assert "takes it for SwinIR with other settings and answers otherwise" in capsys.readouterr().out


def test_a_file_of_others_keeps_its_keys_and_its_range_of_values(tmp_path: Path) -> None:
    given = tmp_path / "rlfn_x2.pth"
    torch.save(build_network(STUDENTS["rlfn"], 2).state_dict(), given)
    assert run(given, "--formats", "safetensors", "--output", tmp_path / "out") == 0
    before, after = load_network(given), load_network(tmp_path / "out" / "2x-rlfn.safetensors")
    assert after.input_range == before.input_range == 255
    lr = torch.rand(1, 3, 9, 7)
    assert torch.equal(after.module(lr), before.module(lr))


def test_a_range_of_values_that_only_its_user_knows_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(build_network(STUDENTS["rlfn"], 2).state_dict(), tmp_path / "own.pth")
    given = f"{tmp_path / 'own.pth'}:input_range=1,name=mine"
    assert run(given, "--formats", "safetensors", "--output", tmp_path / "out") == 0
    assert "mtkd-dist reads it as 2x-mine.safetensors:input_range=1, which" in capsys.readouterr().out


# Every family in the formats that follow the network


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in STUDENTS if family != "edsr"])
def test_every_family_answers_for_any_size_as_onnx_and_as_a_program(tmp_path: Path, family: str) -> None:
    given = save(tmp_path, family)
    assert run(given, "--formats", "onnx", "program", "--output", tmp_path / "out") == 0
    network = load_network(given).module
    answers_equal(by_onnxruntime(tmp_path / "out" / f"2x-{family}.onnx"), network)
    answers_equal(torch.export.load(tmp_path / "out" / f"2x-{family}.pt2").module(), network)


# How it fails


class OneSize(nn.Module):
    def forward(self, lr: Tensor) -> Tensor:
        return lr.reshape(2, 3, 24, 40)


def test_a_network_for_one_size_is_refused_with_what_works() -> None:
    with pytest.raises(ValueError, match=r"OneSize cannot be followed.*--formats safetensors card works"):
        trace(OneSize(), "OneSize")


@pytest.fixture
def for_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network can be followed."""
    monkeypatch.setattr(command, "trace", lambda network, name: trace(OneSize(), name))


@pytest.mark.usefixtures("for_one_size")
def test_after_a_failure_no_file_is_there_and_the_remedy_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = make_teacher(tmp_path, "tiny").path, tmp_path / "out"
    assert run(given, "--output", out) == 1
    assert "--formats safetensors card works with every network" in capsys.readouterr().err
    assert [*out.iterdir()] == []
    assert run(given, "--output", out, "--formats", "safetensors", "card") == 0


@pytest.mark.usefixtures("for_one_size")
def test_a_failure_leaves_the_files_of_an_earlier_export_as_they_were(tmp_path: Path) -> None:
    given, out = make_teacher(tmp_path, "tiny").path, tmp_path / "out"
    assert run(given, "--output", out, "--formats", "safetensors", "--author", "before") == 0
    assert run(given, "--output", out, "--force", "--author", "after") == 1
    (file,) = out.iterdir()
    assert read_metadata(file)["author"] == "before"


def test_after_an_interruption_no_file_is_there_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "trace", interrupted)
    out = tmp_path / "out"
    assert run(make_teacher(tmp_path, "tiny").path, "--output", out) == 130
    assert f"{out} is as it was. The same command begins anew." in capsys.readouterr().err
    assert [*out.iterdir()] == []


def test_an_answer_that_differs_is_told_with_size_and_difference() -> None:
    network = Nearest(2)
    assert largest_difference(lambda lr: network(lr) + 5e-5, network, "x.onnx") == pytest.approx(5e-5, rel=0.01)
    with pytest.raises(
        ValueError, match=r"x.onnx answers 2 image\(s\) of 64x59 pixels.*differ by 0.1 .*expected 0.0001"
    ):
        largest_difference(lambda lr: network(lr) + 0.1 * (lr.shape[-1] > 50), network, "x.onnx")


def test_an_answer_of_another_size_or_none_is_told() -> None:
    network = Nearest(2)
    with pytest.raises(ValueError, match=r"x.pt2 turns 1 image\(s\) of 13x22 pixels into \(1, 3, 13, 22\)"):
        largest_difference(lambda lr: lr, network, "x.pt2")

    def fails(lr: Tensor) -> Tensor:
        raise RuntimeError("Expected 24\nmore")

    with pytest.raises(ValueError, match=r"x.pt2 fails for 1 image.*pixels: RuntimeError: Expected 24$"):
        largest_difference(fails, network, "x.pt2")


def test_without_its_packages_onnx_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "no_such_package"))
    given = make_teacher(tmp_path, "tiny").path
    assert run(given, "--output", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert 'no_such_package is not installed: pip install "mtkd-dist[export]"' in said
    assert "--formats safetensors program card" in said
    assert not (tmp_path / "out").exists()
    assert run(given, "--output", tmp_path / "out", "--formats", "safetensors", "card") == 0


def test_the_help_fits_a_screen_and_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert any("mtkd export runs/demo" in line for line in lines)


def test_a_file_that_is_no_model_is_wrong_usage_as_in_other_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "net.pth"
    given.write_text("no weights")
    assert run(given, "--output", tmp_path / "out") == evaluate.main([str(given), "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("net.pth: this is no weight file") == 2
    assert not (tmp_path / "out").exists()


def test_wrong_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "nothing.safetensors") == 2
    assert "no such file or folder" in capsys.readouterr().err
    given = make_teacher(tmp_path, "tiny").path
    assert run(given, "--output", given, "--formats", "card") == 2
    assert f"--output {given} cannot be written: File exists" in capsys.readouterr().err
    assert run("--formats", "card", given) == 2
    assert "(MODEL comes before --formats)" in capsys.readouterr().err
    assert run("x.pth", "--formats", "tflite") == 2
    said = capsys.readouterr().err
    assert "invalid choice: 'tflite'" in said
    assert "MODEL comes before" not in said
