"""The layers of docs/devel/architecture.md, held against the imports of every module."""

from __future__ import annotations

import ast
import os

SRC = os.path.join(os.path.dirname(__file__), "..", "..", "src")
L0 = {"rkt", "errors", "const", "log", "quickjson"}
L1 = {"linux", "schema"}
L2 = {"config", "keystore", "store", "image", "network", "pod"}

ALLOWED: dict[str, set[str]] = {
    "rkt": set(),
    "__main__": {"cli"},
    "errors": set(),
    "const": set(),
    "quickjson": set(),
    "log": L0,
    "linux": L0,
    "schema": L0,
    "config": L0 | L1,
    "keystore": L0 | L1,
    "store": L0 | L1,
    "image": L0 | L1 | {"store"},
    "network": L0 | L1,
    "pod": L0 | L1,
    "fetch": L0 | L1 | L2,
    "stage0": L0 | L1 | L2 | {"fetch"},
    "stage1": L0 | {"linux", "network"},
    "services": L0 | L1 | L2 | {"fetch", "stage0"},
    "cli": L0 | L1 | L2 | {"fetch", "stage0", "services"},
}

BASE = {"contract", "launch"}
STAGE1: dict[str, set[str]] = {
    "streams": BASE,
    "app": BASE | {"streams"},
    "host": BASE | {"streams", "app"},
    "supervision": BASE | {"streams", "app", "host"},
}
"""What a folder of stage1 may use of it; flavors and the modules beside it may use all."""


def _modules() -> list[tuple[str, str]]:
    found = []
    for folder, _, files in os.walk(os.path.join(SRC, "rkt")):
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                dotted = os.path.relpath(path, SRC)[:-3].replace(os.sep, ".")
                found.append((dotted.removesuffix(".__init__"), path))
    return sorted(found)


def _part(dotted: str) -> str:
    pieces = dotted.split(".")
    return pieces[1] if len(pieces) > 1 else "rkt"


def _imports(path: str) -> set[str]:
    with open(path, encoding="utf-8") as file:
        nodes = list(ast.walk(ast.parse(file.read())))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name == "rkt" or name.startswith("rkt.")}


def test_no_module_imports_upwards_or_sideways() -> None:
    known = {dotted for dotted, _ in _modules()}
    wrong = []
    for dotted, path in _modules():
        part = _part(dotted)
        for imported in _imports(path) & known:
            target = _part(imported)
            if target not in (part, "rkt") and target not in ALLOWED[part]:
                wrong.append(f"{dotted} imports {imported}")
    assert wrong == []


def test_the_folders_of_stage1_lie_above_each_other() -> None:
    known = {dotted for dotted, _ in _modules()}
    wrong = []
    for dotted, path in _modules():
        parts = dotted.split(".")
        if parts[1:2] != ["stage1"] or len(parts) < 4 or parts[2] not in STAGE1:
            continue
        for imported in _imports(path) & known:
            target = imported.split(".")
            allowed = {parts[2]} | STAGE1[parts[2]]
            if target[1:2] == ["stage1"] and len(target) > 2 and target[2] not in allowed:
                wrong.append(f"{dotted} imports {imported}")
    assert wrong == []


def test_there_is_no_cycle_between_modules() -> None:
    known = {dotted for dotted, _ in _modules()}
    edges = {dotted: (_imports(path) & known) - {"rkt", dotted} for dotted, path in _modules()}
    while True:
        leaves = {dotted for dotted, targets in edges.items() if not targets}
        if not leaves:
            break
        edges = {d: targets - leaves for d, targets in edges.items() if d not in leaves}
    assert edges == {}


def test_dangerous_modules_have_one_user() -> None:
    users: dict[str, list[str]] = {"ctypes": [], "subprocess": []}
    for dotted, path in _modules():
        with open(path, encoding="utf-8") as file:
            for node in ast.walk(ast.parse(file.read())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                for name in names:
                    if name in users:
                        users[name].append(dotted)
    assert users == {"ctypes": ["rkt.linux.libc"], "subprocess": ["rkt.linux.proc"]}
