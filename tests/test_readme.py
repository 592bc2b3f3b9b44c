"""README is held to what it says: its code runs, its links lead somewhere, its table is the course."""
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def command(marker):
    return re.search(rf"<!-- {marker} -->\n```sh\n(.*?)\n```", README).group(1)


def test_the_ten_lines_run(capsys):
    exec(compile(CODE[0], "README.md", "exec"), {})
    assert "8 queries down, 8 keys across" in capsys.readouterr().out


@pytest.mark.slow
def test_the_real_model_lines_run(need_weights, capsys, tmp_path, monkeypatch):
    need_weights()
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in CODE[:2]:                                             # the second block goes on where the first ends
        exec(compile(code, "README.md", "exec"), names)
    it, cat = (names["m"].tokenizer.tokens(names["ids"]).index(word) for word in ("·it", "·cat"))
    assert abs(names["weights"][13, 8, it, cat] - 0.80) < 0.01        # what the picture's caption says
    assert capsys.readouterr().out.strip()
    assert (tmp_path / "it.png").stat().st_size > 10_000


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'(?:src|srcset)="([^"]+)"', README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_table_is_the_course():
    rows = re.findall(r"^\| (\d\d) \| \[(.+?)\]\((.+?)\) \|", README, flags=re.MULTILINE)
    lessons = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.ipynb"))
    assert [link for _, _, link in rows] == [f"lessons/{path.name}" for path in lessons]
    for number, title, link in rows:
        head = "".join(json.loads((ROOT / link).read_text(encoding="utf-8"))["cells"][0]["source"])
        assert head.startswith(f"# {number} {title}\n")


def test_the_two_commands_are_there():
    assert command("learn-command").endswith("minattn learn")
    assert command("test-command").endswith("pytest")
