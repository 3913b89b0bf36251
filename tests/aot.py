"""Ahead-of-time compilation of Triton kernels on a machine without a GPU, and what the machine code shows."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Compiled:
    registers: int
    stack_bytes: int
    local_bytes: int
    layout_conversions: int
    ttir: str
    # Widths in bits of each access to global memory in PTX, in the order of the program.
    loads: tuple[int, ...]
    stores: tuple[int, ...]

    @property
    def spills(self) -> int:
        return self.stack_bytes + self.local_bytes


def compile_kernel(
    kernel: Any, types: dict[str, str], constants: dict[str, int], architecture: int, warps: int
) -> Compiled:
    """`types`: of the arguments that are not float32 numbers, as Triton writes them; pointers are 16-byte aligned."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "fp32") for name in names}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
    ptx = compiled.asm["ptx"]
    return Compiled(
        **_resources(compiled.asm["cubin"]),
        ttir=compiled.asm["ttir"],
        layout_conversions=compiled.asm["ttgir"].count("ttg.convert_layout"),
        loads=_widths(ptx, "ld"),
        stores=_widths(ptx, "st"),
    )


def _widths(ptx: str, operation: str) -> tuple[int, ...]:
    accesses = re.findall(rf"\b{operation}\.global(?:\.[\w:]+?)*?(?:\.v(\d))?\.b(\d+)\b", ptx)
    return tuple(int(count or 1) * int(bits) for count, bits in accesses)


def _resources(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found, f"cuobjdump printed no resource usage: {usage!r}"
    registers, stack, local = map(int, found.groups())
    return {"registers": registers, "stack_bytes": stack, "local_bytes": local}
