"""What the extension consists of agrees with itself: files, panel, catalog, copied client."""

import ast
import json
import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTENSION = ROOT / "integrations" / "slicer" / "SegKit"
MODULE = EXTENSION / "SegKit"
UI = MODULE / "Resources" / "UI" / "SegKit.ui"
CODE = (MODULE / "SegKit.py").read_text()
KNOWN_WIDGETS = {
    "ctkCollapsibleButton", "ctkPathLineEdit", "qMRMLNodeComboBox", "qMRMLSegmentSelectorWidget",
    "qMRMLWidget", "QComboBox", "QLabel", "QLineEdit", "QProgressBar", "QPushButton", "QSpinBox",
}  # fmt: skip
ALLOWED_IMPORTS = {"numpy", "slicer", "vtk", "qt", "ctk", "SegKitLib"}


def widgets() -> dict[str, str]:
    found = ET.parse(UI).getroot().iter("widget")
    return {widget.get("name", ""): widget.get("class", "") for widget in found}


def python_files() -> list[Path]:
    return sorted(MODULE.rglob("*.py"))


def test_the_client_is_that_of_segkit() -> None:
    ours, theirs = ROOT / "segkit" / "client", MODULE / "SegKitLib" / "client"
    files = {path.name: path.read_bytes() for path in ours.glob("*.py")}
    copied = {path.name: path.read_bytes() for path in theirs.glob("*.py")}
    assert copied.keys() == files.keys()
    different = [name for name in files if files[name] != copied[name]]
    assert not different, f"run `make slicer-client`: {different}"


def test_cmake_lists_every_file() -> None:
    text = (MODULE / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", "SegKit")
    listed = set(re.findall(r"^  ([\w/.]+\.(?:py|png|ui))$", text, re.MULTILINE))
    present = {
        str(path.relative_to(MODULE))
        for path in MODULE.rglob("*.*")
        if path.suffix in (".py", ".png", ".ui") and "Testing" not in path.parts
    }
    assert listed == present
    tests = (MODULE / "Testing" / "Python" / "CMakeLists.txt").read_text()
    scripts = {path.name for path in (MODULE / "Testing" / "Python").glob("*.py")}
    assert set(re.findall(r"SCRIPT (\S+)\)", tests)) == scripts


def test_the_catalog_entry_follows_the_rules_and_cmake() -> None:
    entry = json.loads((EXTENSION.parent / "SegKit.json").read_text())
    assert set(entry) <= {
        "$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies",
        "build_subdirectory", "enabled", "tier",
    }  # fmt: skip
    assert entry["scm_type"] in ("git", "local")
    assert entry["tier"] in range(1, 6)
    assert (ROOT / entry["build_subdirectory"] / "CMakeLists.txt").exists()
    cmake = (EXTENSION / "CMakeLists.txt").read_text()
    assert f'EXTENSION_CATEGORY "{entry["category"]}"' in cmake
    assert "project(SegKit)" in cmake
    for name in re.findall(r"\$\{PUBLISHED\}/([\w./]+)", cmake):
        assert (EXTENSION / name).exists(), name
    assert (EXTENSION / "LICENSE.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()
    width, height = struct.unpack(">II", (EXTENSION / "SegKit.png").read_bytes()[16:24])
    assert (width, height) == (128, 128)


def test_the_code_uses_widgets_that_exist() -> None:
    present = widgets()
    used = set(re.findall(r"\bui\.(\w+)", CODE))
    named = {node.value for node in ast.walk(ast.parse(CODE)) if isinstance(node, ast.Constant)}
    buttons = {word for word in named if isinstance(word, str) and re.fullmatch(r"\w+Button", word)}
    assert used - present.keys() == set()
    assert buttons - present.keys() == set()
    assert set(present.values()) <= KNOWN_WIDGETS
    # and every control of the panel is wired
    tools = {f"{tool}Button" for tool in ("points", "box", "scribble", "lasso")}
    edits = {word for word in named if isinstance(word, str) and word.endswith("Edit")}
    controls = {name for name in present if name.endswith(("Button", "Combo", "Spin", "Edit"))}
    assert controls - used - buttons - tools - edits == set()


def test_the_panel_is_bound_to_the_parameter_node_and_the_scene() -> None:
    root = ET.parse(UI).getroot()
    bound = {
        prop.findtext("string")
        for prop in root.iter("property")
        if prop.get("name") == "SlicerParameterName"
    }
    tree = ast.parse(CODE)
    (node,) = [
        one
        for one in tree.body
        if isinstance(one, ast.ClassDef) and one.name == "SegKitParameterNode"
    ]
    fields = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign)}
    assert bound == fields
    customs = {one.findtext("class") for one in root.iter("customwidget")}
    assert customs == {name for name in widgets().values() if name.startswith(("ctk", "qMRML"))}
    receivers = {one.findtext("receiver") for one in root.iter("connection")}
    needs_scene = {
        name
        for name, kind in widgets().items()
        if kind.startswith("qMRML") and kind[-6:] != "Widget"
    } | {"segmentSelector"}
    assert receivers == needs_scene


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.name)
def test_slicer_needs_nothing_beside_its_own_python(path: Path) -> None:
    import sys

    tree = ast.parse(path.read_text())
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots.add((node.module or "").split(".")[0])
    assert roots - set(sys.stdlib_module_names) <= ALLOWED_IMPORTS | {"SegKit"}
    assert len(path.read_text().splitlines()) <= 400
    if path.name in ("controller.py", "link.py", "marks.py", "worker.py", "serverproc.py"):
        assert not roots & {"qt", "ctk", "vtk", "slicer"}
    if path.parent.name == "SegKitLib":
        assert not roots & {"qt", "ctk"}
