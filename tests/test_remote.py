"""What a URL holds, as files of this machine."""

from __future__ import annotations

import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mtkd_dist.config.load import ConfigError, load_config
from mtkd_dist.data.remote import is_url, local_path
from mtkd_dist.stages.inputs import fetched, fetched_set, fetched_weights
from tests.objects import Objects


def quiet(text: str) -> None:
    pass


def put(name: str, content: bytes) -> None:
    Objects().pipe_file(name, content)


def test_a_path_stays_what_it_is() -> None:
    for place in ("runs/x", "/data/Set5", "Set5=photos", "edsr:width=8", "a.pth:name=b"):
        assert not is_url(place)
        assert local_path(place, quiet) == Path(place)
    assert local_path("file:///data/Set5", quiet) == Path("/data/Set5")


def test_a_folder_is_fetched_whole_with_the_names_by_which_data_sets_are_known(objects: type[Objects]) -> None:
    put("objects://b/photos/Set5/HR/baby.png", b"baby")
    put("objects://b/photos/Set5/HR/sub/bird.png", b"bird")
    said: list[str] = []
    folder = local_path("objects://b/photos/Set5/HR", said.append)
    assert folder.parts[-2:] == ("Set5", "HR")
    assert (folder / "baby.png").read_bytes() == b"baby"
    assert (folder / "sub" / "bird.png").read_bytes() == b"bird"
    assert said == ["fetching objects://b/photos/Set5/HR: 2 of 2 files, 0.0 MB"]


def test_only_what_is_new_or_changed_is_fetched_again_and_what_is_gone_goes(objects: type[Objects]) -> None:
    for name in ("same", "changed", "gone"):
        put(f"objects://b/d/{name}.png", b"1")
    folder = local_path("objects://b/d", quiet)
    before = (folder / "same.png").stat().st_mtime_ns
    put("objects://b/d/changed.png", b"2")  # of the same size
    put("objects://b/d/new.png", b"3")
    Objects().rm_file("/b/d/gone.png")
    Objects.fetched.clear()
    assert local_path("objects://b/d/", quiet) == folder
    assert sorted(Objects.fetched) == ["/b/d/changed.png", "/b/d/new.png"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "same.png": b"1",
        "changed.png": b"2",
        "new.png": b"3",
    }
    assert (folder / "same.png").stat().st_mtime_ns == before


def test_a_fetch_that_breaks_off_keeps_what_it_has_and_leaves_no_half_file(
    objects: type[Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(20):
        put(f"objects://b/d/{i:02}.png", b"0123456789")
    real = Objects.get_file

    def torn(self: Objects, rpath: str, lpath: str, **kwargs: object) -> None:
        real(self, rpath, lpath, **kwargs)
        if rpath.endswith("10.png"):
            Path(lpath).write_bytes(b"0123")

    monkeypatch.setattr(Objects, "get_file", torn)
    with pytest.raises(ValueError, match=r"objects://b/d cannot be read: .*10\.png came with 4 of 10 bytes"):
        local_path("objects://b/d", quiet)
    monkeypatch.setattr(Objects, "get_file", real)
    Objects.fetched.clear()
    folder = local_path("objects://b/d", quiet)
    assert 0 < len(Objects.fetched) <= 10, "those before the torn one are not fetched again"
    assert [path.read_bytes() for path in folder.iterdir()] == [b"0123456789"] * 20


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("objects://b/absent", "does not exist or holds no files"),
        ("nonsense://b/x", "nonsense://b/x cannot be used"),
        ("memory://b/x", "seen by one process alone"),
        ("s3://bucket/x", "s3fs"),  # the package is not installed with the tests
    ],
)
def test_a_url_that_cannot_be_read_is_named_with_the_reason(objects: type[Objects], url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        local_path(url, quiet)
    assert url in str(error.value)


def test_a_name_that_leads_out_of_its_folder_is_refused(objects: type[Objects]) -> None:
    put("objects://b/d/../../../outside.png", b"1")
    Objects.store["/b/d/../outside.png"] = next(iter(Objects.store.values()))
    with pytest.raises(ValueError, match="leads out of its folder"):
        local_path("objects://b/d", quiet)


def test_every_input_of_a_run_may_be_a_url(objects: type[Objects]) -> None:
    for name in ("data/a.png", "Set5/HR/b.png", "t.pth", "u.pth", "agg.safetensors", "start.safetensors"):
        put(f"objects://b/{name}", name.encode())
    flags = ["--data", "objects://b/data", "photos", "--test", "objects://b/Set5/HR", "five=objects://b/Set5"]
    flags += ["--teachers", "objects://b/t.pth:name=T,input_range=255", "objects://b/u.pth", "edsr:width=8"]
    flags += ["--aggregator", "objects://b/agg.safetensors", "--student-weights", "objects://b/start.safetensors"]
    config = load_config([*flags, "--output", "objects://b/out"])
    local = fetched(config, quiet)
    assert (Path(local.data[0]) / "a.png").read_bytes() == b"data/a.png"
    assert local.data[1] == "photos"
    assert local.test[0].endswith("/Set5/HR")
    assert local.test[1].startswith("five=/")
    file, options = local.teachers[0].split(":")
    assert (Path(file).read_bytes(), options) == (b"t.pth", "name=T,input_range=255")
    assert Path(local.teachers[1]).read_bytes() == b"u.pth"
    assert local.teachers[2] == "edsr:width=8"
    assert Path(local.aggregator).read_bytes() == b"agg.safetensors"
    assert Path(local.student_weights or "").read_bytes() == b"start.safetensors"
    assert local.output == "objects://b/out"


def test_a_url_where_only_a_folder_of_this_machine_can_stand_is_refused_naming_the_key(objects: type[Objects]) -> None:
    with pytest.raises(ConfigError, match=r"images\.cache: objects://b/x is a URL"):
        fetched(load_config(["--images.cache", "objects://b/x"]), quiet)
    with pytest.raises(ConfigError, match=r"teachers: objects://b/none\.pth"):
        fetched(load_config(["--teachers", "objects://b/none.pth"]), quiet)


def test_a_file_comes_over_http_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "www" / "models").mkdir(parents=True)
    (tmp_path / "www" / "models" / "t.pth").write_bytes(b"weights")

    class Handler(SimpleHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012

        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "www"))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            self.asked.append(self.path)
            super().do_GET()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/models/t.pth"
        entry = fetched_weights(f"{url}:name=T", quiet)
        assert Path(entry.removesuffix(":name=T")).read_bytes() == b"weights"
        assert fetched_weights(f"{url}:name=T", quiet) == entry
        server.shutdown()
    assert Handler.asked.count("/models/t.pth") == 1


def test_a_set_without_a_name_keeps_its_own(objects: type[Objects]) -> None:
    put("objects://b/x=1/Set5/b.png", b"1")
    assert fetched_set("objects://b/x=1/Set5", quiet).endswith("/x=1/Set5")
