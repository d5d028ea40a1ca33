"""The page of faults and the tests that it names agree."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "faults.md"
ROW = re.compile(r"^\| ([SV])-(\d\d) \| [^|]+ \| (.+) \|$", re.MULTILINE)
ENTRY = re.compile(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)")
KINDS = {"S": 29, "V": 12}


def listed() -> dict[str, set[tuple[str, str]]]:
    """Tests by fault: (file under tests/, name)."""
    return {
        f"{kind}-{number}": {
            (file, f"test_{name}")
            for file, names in ENTRY.findall(tests)
            for name in re.findall(r"`(\w+)`", names)
        }
        for kind, number, tests in ROW.findall(PAGE.read_text())
    }


def written() -> dict[str, set[str]]:
    """Names of the tests of each file."""
    return {
        str(path.relative_to(ROOT / "tests")): set(
            re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
        )
        for path in (ROOT / "tests").rglob("test_*.py")
    }


def test_every_fault_has_a_test_that_exists() -> None:
    found, tests = listed(), written()
    wanted = [f"{kind}-{n:02}" for kind, most in KINDS.items() for n in range(1, most + 1)]
    assert list(found) == wanted
    for fault, entries in found.items():
        assert entries, fault
        for file, name in entries:
            assert name in tests.get(file, ()), (fault, file, name)


def test_every_test_that_names_a_fault_is_listed() -> None:
    found = listed()
    for file, names in written().items():
        for name in names:
            for kind, number in re.findall(r"_([sv])(\d\d)(?=_|$)", name):
                assert (file, name) in found[f"{kind.upper()}-{number}"], (file, name)
