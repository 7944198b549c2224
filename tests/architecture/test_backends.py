"""Every backend that is present stands in its port's contract suite."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
BACKENDS = ROOT / "services" / "common" / "backends"
PORTS = {"object_store": "ObjectStore", "database": "Database", "launcher": "Launcher", "model_server": "ModelServer"}


def names(path: Path) -> set[str]:
    """Every name that a module speaks of in its code."""
    return {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}


def backends(port: str) -> set[str]:
    """The classes of a port's folder that implement it."""
    modules = [ast.parse(path.read_text()) for path in (BACKENDS / port).glob("*.py")]
    classes = [node for module in modules for node in module.body if isinstance(node, ast.ClassDef)]
    return {c.name for c in classes if PORTS[port] in {base.id for base in c.bases if isinstance(base, ast.Name)}}


def test_every_folder_of_backends_belongs_to_a_port() -> None:
    assert {path.name for path in BACKENDS.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(PORTS)


def test_every_backend_stands_in_its_ports_contract_suite() -> None:
    missing = {port: backends(port) - names(ROOT / "tests" / "contract" / f"test_{port}.py") for port in PORTS}
    assert all(backends(port) for port in PORTS)
    assert {port: absent for port, absent in missing.items() if absent} == {}
