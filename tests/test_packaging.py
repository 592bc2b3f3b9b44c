"""pyproject.toml against what leans on it: the pins of the oldest versions, and the extras that messages name."""
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_oldest_pins_are_the_lower_bounds():
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(line for name in ("models", "lessons", "pages", "test") for line in extras[name])]
    bounds = dict(line.partition(";")[0].split(">=") for line in wanted if not line.startswith("minattn["))
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests" / "oldest.txt").read_text(), flags=re.M))
    assert set(pins) == set(bounds)
    for name, pin in pins.items():
        assert pin == bounds[name] or pin == f"{bounds[name]}.0", name


def test_messages_name_extras_that_exist():
    named = {extra for path in (ROOT / "minattn").rglob("*.py")
             for extra in re.findall(r"pip install '?minattn\[(\w+)\]", path.read_text(encoding="utf-8"))}
    assert named
    assert named <= set(PROJECT["optional-dependencies"])
