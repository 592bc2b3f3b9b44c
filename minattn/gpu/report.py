"""What a simulated launch did: problems, each told with thread, line and array, and the ledger."""
import linecache
from dataclasses import dataclass

from .ledger import Ledger
from .watch import Site


@dataclass(frozen=True)
class Problem:
    """Something that a GPU leaves undefined: where and by whom it was first seen, and how often it was."""

    kind: str
    array: str | None
    site: Site
    thread: str
    detail: str
    count: int = 1

    def __str__(self):
        on = f" on {self.array}" if self.array else ""
        often = f", {self.count} times" if self.count > 1 else ""
        code = linecache.getline(self.site.file, self.site.line).strip()
        return f"{self.kind}{on}{often}: {self.thread} {self.detail}\n    line {self.site.line}: {code}"


@dataclass(frozen=True)
class Report:
    """What a launch did: its problems, in the order in which they were first seen, and its ledger."""

    problems: tuple
    ledger: Ledger

    @property
    def kinds(self):
        """The kinds of problem, each once."""
        return tuple(dict.fromkeys(problem.kind for problem in self.problems))

    def __str__(self):
        return "\n".join([*map(str, self.problems), *([] if self.problems else ["no problem seen"]), str(self.ledger)])
