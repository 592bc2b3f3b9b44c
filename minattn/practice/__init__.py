"""Practice: exercises whose check names the mistake.

    from minattn.practice import check
    check.softmax(my_softmax)                     # a Result, which shows itself and is true where the answer is right

Each file here holds the exercises of one mechanism: inputs, the right answer, and the wrong ones that people write.

    exercise   Exercise: runs an answer beside the reference and beside the known mistakes
    compare    two arrays: exact, close or different, and where first
    result     Result and Stage: plain values, text and HTML
    check      the exercises by name
"""
from . import check
from .result import Result, Stage

__all__ = ["Result", "Stage", "check"]
