"""The README's map is the disk, what papers name and link to exists, and no module is a drawer or catches everything."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWNERS_TOP = {"services", "proto", "deploy", "helm", "tests", "Makefile", "README.md"}


def tracked() -> set[str]:
    """Files that git tracks, or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {line for line in listed.stdout.splitlines() if (ROOT / line).exists()}


def mapped() -> dict[str, str]:
    """Path → indentation-free entry of the README's map."""
    section = (ROOT / "README.md").read_text().split("## Map\n", 1)[1].split("\n## ", 1)[0]
    entries: dict[str, str] = {}
    folders: list[str] = []
    for line in section.splitlines():
        match = re.match(r"    ( *)(\S+)", line)
        if not match:
            continue
        depth = len(match[1]) // 2
        folders = [*folders[:depth], match[2]]
        entries["".join(folders)] = match[2]
    return entries


def test_every_entry_of_the_map_is_on_the_disk() -> None:
    missing = [path for path in mapped() if not (ROOT / path).exists()]
    assert missing == []


def test_everything_at_the_top_is_in_the_map() -> None:
    top = {path.split("/")[0] + ("/" if "/" in path else "") for path in tracked()} - {".gitignore"}
    assert top - set(mapped()) == set()


def test_every_folder_of_services_is_in_the_map() -> None:
    folders = {f"services/{path.split('/')[1]}/" for path in tracked() if path.startswith("services/") and path.count("/") > 1}
    assert folders - set(mapped()) == set()


def test_the_top_level_holds_the_owners_folders_and_metadata_only() -> None:
    folders = {path.split("/")[0] for path in tracked() if "/" in path}
    assert folders - OWNERS_TOP - {".ci"} == set()


def test_links_in_the_papers_lead_somewhere() -> None:
    broken = []
    for paper in ("README.md", "CONTRIBUTING.md", "DECISIONS.md", "services/README.md", "proto/README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / paper).read_text()):
            if not ((ROOT / paper).parent / target).exists():
                broken.append(f"{paper}: {target}")
    assert broken == []


def test_files_named_in_contributing_exist() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## Copy this file", 1)[1]
    named = [name for name in re.findall(r"`((?:services|tests)/[^`]+)`", table) if not (ROOT / name).exists()]
    assert named == []


def test_no_module_is_called_after_a_drawer() -> None:
    drawers = {"utils", "helpers", "misc", "manager", "base", "core", "types", "constants"}
    assert [path for path in tracked() if path.endswith(".py") and Path(path).stem in drawers] == []


def test_except_exception_stands_only_where_the_house_allows_it() -> None:
    allowed = {"services/common/reconcile.py", "services/common/transport/http_server.py"}
    places = {
        path
        for path in tracked()
        if path.startswith("services/")
        and path.endswith(".py")
        and re.search(r"except (Exception|BaseException)\b", (ROOT / path).read_text())
    }
    assert places - allowed == set()
