"""Is this executable for that machine, and does it need nothing but the kernel? (The ELF specification, 64 bit little endian.)"""

from __future__ import annotations

import struct

MACHINES = {62: "x86_64", 183: "aarch64"}  # e_machine
INTERPRETER = 3  # PT_INTERP: the loader that a dynamically linked program names


def fault(program: bytes, arch: str) -> str | None:
    """What is wrong with it, if anything."""
    if program[:6] != b"\x7fELF\x02\x01" or len(program) < 64:
        return "is no 64 bit Linux executable"
    (machine,) = struct.unpack_from("<H", program, 18)
    if MACHINES.get(machine) != arch:
        return f"is for {MACHINES.get(machine, f'machine {machine}')}, not {arch}"
    (table,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    kinds = {struct.unpack_from("<I", program, table + size * place)[0] for place in range(count)}
    return "is dynamically linked: its loader would be missing" if INTERPRETER in kinds else None
