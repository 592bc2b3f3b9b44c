"""What a check says: plain values for a program, text and HTML for a reader.

    status    "pass", "fail", "blank" (nothing is filled in yet) or "error" (the answer raised an exception)
    mistake   the known mistake that the answer equals, or None
    stages    what was compared, in the order of computing; of a failure, those of the first input that fails
"""
from dataclasses import dataclass
from html import escape
from typing import Any

HEADLINE = {"pass": "pass", "fail": "not yet", "blank": "still blank", "error": "an exception in your code"}
COLOUR = {"pass": "#1a7f4b", "fail": "#b3372e", "blank": "#63676e", "error": "#a3510b"}     # white on each: 4.5 to 1 or more


@dataclass(frozen=True)
class Stage:
    """One array of the answer beside the one wanted."""

    name: str
    verdict: str                                    # "exact", "close", "different", "shape" or "dtype"
    largest: float | None = None                    # largest difference, where there are numbers to subtract
    index: tuple[int, ...] | None = None            # the first entry that differs
    where: str = ""                                 # the same in letters: "n=1, s=4"
    yours: Any = None                               # that entry; of "shape" and "dtype" the whole shape or type
    expected: Any = None

    @property
    def ok(self):
        return self.verdict in ("exact", "close")

    @property
    def words(self):
        """What there is to say besides the verdict."""
        if self.verdict in ("exact", "shape", "dtype"):
            return "" if self.verdict == "exact" else f"yours {self.yours}, expected {self.expected}"
        words = [] if self.largest is None else [f"largest difference {self.largest:.2g}"]
        if self.verdict == "different":
            first = f"first differs at {self.where}: " if self.where else ""
            words.append(f"{first}yours {self.yours}, expected {self.expected}")
        return "; ".join(words)


@dataclass(frozen=True, repr=False)
class Result:
    """What became of an answer. `bool(result)` is whether it passed; shown, it is what a learner reads.

    Examples
    --------
    >>> from minattn.practice import check
    >>> result = check.softmax(lambda scores: None)
    >>> result.status, bool(result)
    ('blank', False)
    """

    exercise: str
    status: str
    message: str
    mistake: str | None = None
    look: str = ""
    stages: tuple[Stage, ...] = ()

    def __bool__(self):
        return self.status == "pass"

    def _facts(self):
        """(label, text) of everything that stands below the stages."""
        facts = [("", self.message)] if self.message else []
        if self.mistake:
            facts.append(("Known mistake: ", self.mistake))
        if self.look:
            facts.append(("Look at: ", self.look))
        return facts

    def __repr__(self):
        lines = [f"{self.exercise}: {HEADLINE[self.status]}"]
        width = max((len(stage.name) for stage in self.stages), default=0)
        lines += [f"  {stage.name:{width}}  {stage.verdict:9}  {stage.words}".rstrip() for stage in self.stages]
        return "\n".join([*lines, *(f"{label}{text}" for label, text in self._facts())])

    def _repr_html_(self):
        """Only inline styles: scripts and style sheets are stripped from a notebook that is not trusted."""
        colour = COLOUR[self.status]
        badge = f"background:{colour};color:#ffffff;padding:1px 8px;border-radius:3px;font-weight:600"
        plain = "border:none;background:transparent;color:inherit;font:inherit"
        cell = f"padding:1px 14px 1px 0;text-align:left;{plain}"
        rows = "".join(
            "<tr style='background:transparent'>"
            + "".join(f"<td style='{cell}'>{escape(text)}</td>" for text in (stage.name, stage.verdict, stage.words))
            + "</tr>"
            for stage in self.stages
        )
        table = f"<table style='margin:6px 0;border-collapse:collapse;{plain}'>{rows}</table>" if rows else ""
        facts = "".join(
            f"<div style='margin-top:4px;white-space:pre-wrap'>{f'<b>{escape(label)}</b>' if label else ''}{escape(text)}</div>"
            for label, text in self._facts()
        )
        return (
            f"<div style='border-left:4px solid {colour};padding:2px 0 2px 12px;color:inherit;overflow-x:auto'>"
            f"<div><code>{escape(self.exercise)}</code> <span style='{badge}'>{HEADLINE[self.status]}</span></div>"
            f"{table}{facts}</div>"
        )
