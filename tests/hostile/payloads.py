"""Pickles that would run code: each creates the canary file once it is unpickled with trust."""

import builtins
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import torch

from tests.hostile.corpus import zip_of


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def callers(canary: Path) -> dict[str, Calls]:
    """Objects that create a file by way of different functions."""
    name, code = str(canary), f"open({str(canary)!r}, 'w').close()"
    return {
        "exec": Calls(builtins.exec, code),
        "eval": Calls(builtins.eval, code),
        "open": Calls(builtins.open, name, "w"),
        "system": Calls(os.system, f"touch '{name}'"),
        "popen": Calls(subprocess.Popen, ["touch", name]),
        "mkdir": Calls(os.mkdir, name),
        "path": Calls(Path.touch, canary),
        "torch save": Calls(torch.save, {}, name),
        "torch load": Calls(torch.load, name),
        "storage file": Calls(torch.UntypedStorage.from_file, name, True, 8),
        "state": Calls(dict, state={"a": Calls(builtins.open, name, "w")}),
        "loads": Calls(pickle.loads, pickle.dumps(Calls(builtins.exec, code))),
    }


def stacked(canary: Path) -> bytes:
    """A pickle of protocol 4 whose function is named on the stack."""
    texts = [b"\x8c" + bytes([len(word)]) + word for word in (b"builtins", b"open")]
    path = os.fsencode(canary)
    arguments = b"\x8c" + bytes([len(path)]) + path if len(path) < 256 else b"\x8c\x01a"
    return b"\x80\x04" + b"".join(texts) + b"\x93" + arguments + b"\x8c\x01w\x86R."


def instance(canary: Path) -> bytes:
    """A pickle of protocol 0 whose opcode INST names the function."""
    return b"(S" + repr(str(canary)).encode() + b"\nS'w'\nibuiltins\nopen\n."


def persistent(canary: Path) -> bytes:
    """A pickle that asks for an object by a name of its own."""
    return b"\x80\x02X" + struct.pack("<I", len(str(canary))) + str(canary).encode() + b"Q."


def pickles(canary: Path) -> dict[str, bytes]:
    """Pickles with payloads, alone and beside weights, of all protocols."""
    found = {}
    for name, caller in callers(canary).items():
        for protocol in (0, 2, pickle.HIGHEST_PROTOCOL):
            found[f"{name} {protocol}"] = pickle.dumps(caller, protocol)
        found[f"{name} among weights"] = pickle.dumps({"head.weight": 1.0, "x": [caller]}, 2)
        found[f"{name} as a key"] = pickle.dumps([{(1, 2): caller}], 2)
    found["stacked"] = stacked(canary)
    found["instance"] = instance(canary)
    found["persistent"] = persistent(canary)
    return found


def containers(payload: bytes) -> dict[str, bytes]:
    """A pickle in every container that PyTorch reads."""
    legacy = b"".join(
        pickle.dumps(part, 2)
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": {}})
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("pickle", "tensors", "storages", "sys_info"):
            entry = tarfile.TarInfo(name)
            entry.size = len(payload)
            archive.addfile(entry, io.BytesIO(payload))
    return {
        "bare": payload,
        "legacy": legacy + payload + pickle.dumps([], 2),
        "zip": zip_of(
            {
                "archive/data.pkl": payload,
                "archive/version": b"3\n",
                "archive/byteorder": sys.byteorder.encode(),
            }
        ),
        "zip in code": zip_of(
            {
                "archive/data.pkl": payload,
                "archive/constants.pkl": payload,
                "archive/version": b"3\n",
            }
        ),
        "tar": buffer.getvalue(),
    }
