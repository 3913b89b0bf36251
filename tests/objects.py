"""An object store in this process: `objects://bucket/key`. It can be switched off, and remembers what came and went."""

from __future__ import annotations

from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Objects(MemoryFileSystem):
    protocol = "objects"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    down: ClassVar[bool] = False
    fetched: ClassVar[list[str]] = []
    sent: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(str(path).removeprefix("objects://"))

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        self._answer()
        type(self).fetched.append(rpath)
        super().get_file(rpath, lpath, **kwargs)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        self._answer()
        type(self).sent.append(rpath)
        super().put_file(lpath, rpath, **kwargs)

    def cat_file(self, path: str, **kwargs: Any) -> bytes:
        self._answer()
        return super().cat_file(path, **kwargs)

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        self._answer()
        super().pipe_file(path, value, **kwargs)

    def _answer(self) -> None:
        if self.down:
            raise ConnectionError("the object store does not answer")

    @classmethod
    def empty(cls) -> None:
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.fetched.clear()
        cls.sent.clear()
        cls.down = False


fsspec.register_implementation("objects", Objects, clobber=True)
