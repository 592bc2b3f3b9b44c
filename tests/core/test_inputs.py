"""What attention refuses: one error of the project's own, which names the argument, the axis by its letter and both sizes."""

import numpy as np
import pytest

import minattn as ma
from minattn import masks
from minattn.core.errors import BackendError, DtypeError, MaskError, OptionError, PositionError, ShapeError

rng = np.random.default_rng(0)
Q, K, V = rng.standard_normal((2, 6, 5, 4)), rng.standard_normal((2, 3, 7, 4)), rng.standard_normal((2, 3, 7, 8))
WRONG = {
    # ranks
    "q of one axis": (ShapeError, {"q": Q[0, 0, 0]}, [r"q has 1 axes", r"q is \(D=4\)", r"\(\.\.\., H, N, D\), or \(N, D\)"]),
    "k of no axis": (ShapeError, {"k": np.float64(3)}, ["k has 0 axes", r"\(\.\.\., G, S, D\)"]),
    "v of one axis": (ShapeError, {"v": V[0, 0, 0]}, ["v has 1 axes", r"\(\.\.\., G, S, Dv\)"]),
    "k without heads": (ShapeError, {"k": K[0, 0]}, ["q has 4 axes but k has 2", "give all of them a head axis or none"]),
    "v without heads": (ShapeError, {"v": V[0, 0]}, ["q has 4 axes but v has 2"]),
    "q without heads": (ShapeError, {"q": Q[0, 0]}, ["q has 2 axes but k has 4"]),
    # axes that disagree
    "D": (ShapeError, {"k": K[..., :3]},
        ["k has D = 3 but q has D = 4", r"q is \(B=2, H=6, N=5, D=4\)", r"k is \(B=2, G=3, S=7, D=3\)", "must share D"]),
    "G of v": (ShapeError, {"v": V[:, :2]},
        ["v has G = 2 but k has G = 3", r"v is \(B=2, G=2, S=7, Dv=8\)", "keys and values must share their heads"]),
    "S of v": (ShapeError, {"v": V[:, :, :6]}, ["v has S = 6 but k has S = 7", "every key needs one value"]),
    "H of no multiple of G": (ShapeError, {"q": Q[:, :5]}, ["q has H = 5 heads and k has G = 3", "H must be a multiple of G"]),
    "H below G": (ShapeError, {"q": Q[:, :2]}, ["q has H = 2 heads and k has G = 3"]),
    "H = 0": (ShapeError, {"q": Q[:, :0]}, ["q has H = 0 heads and k has G = 3", "neither 0"]),
    "G = 0": (ShapeError, {"k": K[:, :0], "v": V[:, :0]},
        ["q has H = 6 heads and k has G = 0"]),
    "B": (ShapeError, {"q": rng.standard_normal((3, 6, 5, 4))},
        [r"axes before the heads \(B\) do not fit", r"q \(3,\), k \(2,\)"]),
    "D = 0": (ShapeError, {"q": Q[..., :0], "k": K[..., :0]}, ["the head dim is 0", "D must be at least 1"]),
    "Dv = 0": (ShapeError, {"v": V[..., :0]}, ["the head dim is 0", "Dv=0"]),
    # types
    "integer q": (DtypeError, {"q": Q.astype(int)}, ["q is int64", r"q\.astype\(np\.float32\)"]),
    "complex q": (DtypeError, {"q": Q * 1j}, ["q is complex128", "float16, bfloat16, float32 or float64"]),
    "boolean k": (DtypeError, {"k": K > 0}, ["k is bool"]),
    "no v": (DtypeError, {"v": None}, ["v is object"]),
    "v of text": (DtypeError, {"v": V.astype(str)}, ["v is <U"]),
    "integer bias": (DtypeError, {"bias": np.ones((5, 7), int)}, ["bias is int64"]),
    "q of unequal rows": (ShapeError, {"q": [[1.0], [1.0, 2.0]]}, ["q: rows of unequal length"]),
    "a masked array": (DtypeError, {"q": np.ma.masked_greater(Q, 1)}, ["q is a masked array", r"q\.filled\(0\)"]),
    "boolean bias": (DtypeError, {"bias": np.ones((5, 7), bool)}, ["bias is bool"]),
    "integer sink": (DtypeError, {"sink_logits": np.ones(6, int)}, ["sink_logits is int64"]),
    # masks
    "float mask": (MaskError, {"mask": np.zeros((5, 7))}, ["mask is float64", "must be boolean, True = may attend", "bias="]),
    "0/1 mask": (MaskError, {"mask": np.ones((5, 7), int)}, ["mask is int64", r"0/1 integers use mask\.astype\(bool\)"]),
    "unsigned mask": (MaskError, {"mask": np.ones((5, 7), np.uint8)}, ["mask is uint8", r"mask\.astype\(bool\)"]),
    "function as mask": (MaskError, {"mask": lambda i, j: i >= j}, ["mask is object", "or a Mask"]),
    "padding as mask": (ShapeError, {"mask": np.ones((2, 7), bool)}, [
        r"mask is \(2, 7\) but the scores have \(N, S\) = \(5, 7\)", r"masks\.padding\(lengths\)", r"mask\[:, None, None, :\]",
    ]),
    "mask of other lengths": (ShapeError, {"mask": np.ones((5, 6), bool)},
        [r"mask is \(5, 6\)", r"\(N, S\) = \(5, 7\)"]),
    "mask turned": (ShapeError, {"mask": np.ones((7, 5), bool)},
        [r"mask is \(7, 5\)", r"\(5, 7\)"]),
    "mask of three axes": (ShapeError, {"mask": np.ones((2, 5, 7), bool)},
        [r"mask has 3 axes, \(2, 5, 7\)", r"\(N, S\) = \(5, 7\)", "4 axes of the scores"]),
    "mask of unequal rows": (ShapeError, {"mask": [[True], [True, True]]}, ["mask: rows of unequal length"]),
    "mask of one axis": (ShapeError, {"mask": np.ones(7, bool)}, ["mask has 1 axes"]),
    "mask of other heads": (ShapeError, {"mask": np.ones((2, 3, 5, 7), bool)},
        [r"mask is \(2, 3, 5, 7\)", r"the shape of the scores is \(B=2, H=6, N=5, S=7\)"]),
    "padding of other rows": (ShapeError, {"mask": masks.padding([1, 2, 3])},
        ["mask padding is made for B = 3 but the scores have B = 2"]),
    "segments of other lengths": (ShapeError, {"mask": masks.segments(np.zeros(5, int))},
        ["mask segments is made for S = 5 but the scores have S = 7"]),
    "rule of integers": (MaskError, {"mask": ma.Mask(lambda i, j: i - j)}, ["its rule returns int64"]),
    # bias and sinks
    "bias of other lengths": (ShapeError, {"bias": np.zeros((5, 6))},
        [r"bias is \(5, 6\)", "N=5, S=7", "each axis must be full or 1"]),
    "bias of other heads": (ShapeError, {"bias": np.zeros((3, 1, 1))}, [r"bias is \(3, 1, 1\)", "H=6"]),
    "bias of too many axes": (ShapeError, {"bias": np.zeros((1, 2, 6, 5, 7))}, [r"bias is \(1, 2, 6, 5, 7\)"]),
    "sink of KV heads": (ShapeError, {"sink_logits": np.zeros(3)},
        [r"sink_logits is \(3,\) but q has H = 6", "one logit a head"]),
    "sink of two axes": (ShapeError, {"sink_logits": np.zeros((2, 6))},
        [r"sink_logits is \(2, 6\)"]),
    # positions
    "k_pos alone": (PositionError, {"k_pos": np.arange(7)}, ["k_pos without q_pos", "say where the queries stand"]),
    "float positions": (PositionError, {"q_pos": np.arange(5.0)},
        ["q_pos is float64; positions are integers"]),
    "boolean positions": (PositionError, {"q_pos": np.arange(5), "k_pos": np.ones(7, bool)}, ["k_pos is bool"]),
    "q_pos of other length": (ShapeError, {"q_pos": np.arange(7)}, [r"q_pos is \(7,\)", "N = 5"]),
    "k_pos of other length": (ShapeError, {"q_pos": np.arange(5), "k_pos": np.arange(5)}, [r"k_pos is \(5,\)", "S = 7"]),
    "q_pos of other rows": (ShapeError, {"q_pos": np.zeros((3, 5), int)},
        [r"q_pos is \(3, 5\)", r"axes before the heads \(2,\)"]),
    "q_pos with heads": (ShapeError, {"q_pos": np.zeros((2, 6, 5), int)}, [r"q_pos is \(2, 6, 5\)"]),
    "q_pos of unequal rows": (ShapeError, {"q_pos": [[0], [1, 2]]}, ["q_pos: rows of unequal length"]),
    "q_pos a number": (ShapeError, {"q_pos": 3}, [r"q_pos is \(\)"]),
    # options
    "softcap and score_mod": (OptionError, {"softcap": 3.0, "score_mod": lambda s, *_: s},
        ["softcap and score_mod", "write the softcap into score_mod"]),
    "softcap 0": (OptionError, {"softcap": 0},
        ["softcap = 0.0; it must be positive"]),
    "softcap below 0": (OptionError, {"softcap": -2.5}, ["softcap = -2.5"]),
    "softcap NaN": (OptionError, {"softcap": np.nan}, ["softcap = nan; it must be finite"]),
    "softcap without end": (OptionError, {"softcap": np.inf},
        ["softcap = inf; it must be finite"]),
    "softcap of heads": (OptionError, {"softcap": np.ones(6)}, ["softcap is array", "one number"]),
    "scale of heads": (OptionError, {"scale": np.ones(6)}, ["scale is array", "one number"]),
    "scale of text": (OptionError, {"scale": "auto"}, ["scale is 'auto'"]),
    "scale beyond floats": (OptionError, {"scale": 10**400}, ["it must be one number"]),
    "scale NaN": (OptionError, {"scale": np.nan}, ["scale = nan"]),
    "score_mod an array": (OptionError, {"score_mod": np.ones((5, 7))}, ["score_mod is ndarray; it must be a function"]),
    "score_mod of another shape": (ShapeError, {"score_mod": lambda s, b, h, i, j: s.sum(axis=-1)},
        [r"returns shape \(2, 6, 5\)", r"\(2, 6, 5, 7\)", "entry by entry"]),
    "score_mod without return": (DtypeError, {"score_mod": lambda s, b, h, i, j: None}, ["returns nothing", "changed scores"]),
    "score_mod that is a mask": (DtypeError, {"score_mod": lambda s, b, h, i, j: i >= j}, ["returns bool"]),
    "backend unknown": (BackendError, {"backend": "tpu"}, ["backend is 'tpu'", "'auto', 'numpy'"]),
    "backend a list": (BackendError, {"backend": ["numpy"]}, ["backend is"]),
}  # fmt: skip
BUILT_IN = {
    BackendError: ValueError,
    DtypeError: TypeError,
    MaskError: ValueError,
    OptionError: ValueError,
    PositionError: ValueError,
    ShapeError: ValueError,
}


def refuses(kind, words, call, *arguments, **options):
    with pytest.raises(ma.MinattnError) as caught:
        call(*arguments, **options)
    assert type(caught.value) is kind
    assert isinstance(caught.value, BUILT_IN[kind])
    for word in words:
        caught.match(word)


@pytest.mark.parametrize(("kind", "wrong", "words"), WRONG.values(), ids=WRONG)
def test_bad_input(kind, wrong, words):
    given = {"q": Q, "k": K, "v": V} | wrong
    refuses(kind, words, ma.attention, **given)
    refuses(kind, words, ma.attention_backward, np.ones((2, 6, 5, 8)), **given)
    if "v" not in wrong:
        refuses(kind, words, ma.attention_weights, **{name: value for name, value in given.items() if name != "v"})
    if "backend" not in wrong:
        refuses(kind, words, ma.steps, **given)


@pytest.mark.parametrize(("wrong", "words"), [
    ({"mask": np.ones((5, 6), bool)}, [r"mask is \(5, 6\)", "N=5, S=7"]),
    ({"mask": np.ones((1, 5, 7), bool)}, ["mask has 3 axes", r"\(N, S\) = \(5, 7\)"]),
    ({"bias": np.ones((1, 5, 7))}, [r"bias is \(1, 5, 7\)"]),
    ({"sink_logits": np.ones(2)}, [r"sink_logits is \(2,\) but q has H = 1"]),
    ({"q_pos": np.zeros((1, 5), int)}, [r"q_pos is \(1, 5\)"]),
])  # fmt: skip
def test_bad_input_of_one_head(wrong, words):
    refuses(ShapeError, words, ma.attention, Q[0, 0], K[0, 0], V[0, 0], **wrong)


@pytest.mark.parametrize(("wrong", "kind", "words"), [
    ({"dout": np.ones((2, 6, 5, 4))}, ShapeError, [r"dout is \(2, 6, 5, 4\)", r"\(\.\.\., H, N, Dv\) = \(2, 6, 5, 8\)"]),
    ({"dout": np.ones((6, 5, 8))}, ShapeError, [r"dout is \(6, 5, 8\)"]),
    ({"dout": np.ones((2, 6, 5, 8), int)}, DtypeError, ["dout is int64"]),
    ({"out": np.ones((2, 6, 5, 8))}, OptionError, ["out and lse go together"]),
    ({"lse": np.ones((2, 6, 5))}, OptionError, ["out and lse go together", r"return_lse=True"]),
    ({"out": np.ones((2, 6, 4, 8)), "lse": np.ones((2, 6, 5))}, ShapeError, [r"out is \(2, 6, 4, 8\)"]),
    ({"out": np.ones((2, 6, 5, 8)), "lse": np.ones((2, 6, 5, 1))}, ShapeError,
        [r"lse is \(2, 6, 5, 1\)", r"\(\.\.\., H, N\) = \(2, 6, 5\)"]),
    ({"score_mod_grad": lambda s, *_: s}, OptionError, ["score_mod_grad without score_mod"]),
    ({"score_mod": lambda s, *_: s, "score_mod_grad": lambda s, *_: s[..., 0]}, ShapeError, [r"returns shape \(2, 6, 5\)"]),
])  # fmt: skip
def test_bad_input_of_the_backward(wrong, kind, words):
    refuses(kind, words, ma.attention_backward, **{"dout": np.ones((2, 6, 5, 8)), "q": Q, "k": K, "v": V} | wrong)


def test_every_error_is_one_of_the_project_and_a_built_in():
    kinds = [kind for kind in vars(ma.errors).values() if isinstance(kind, type) and kind is not ma.MinattnError]
    assert len(kinds) > 8
    for kind in kinds:
        assert issubclass(kind, ma.MinattnError)
        assert issubclass(kind, (ValueError, TypeError, ImportError))
        assert kind.__doc__
    assert not issubclass(ma.MinattnError, ValueError)


def test_floats_of_8_bits(need):
    for name in ("float8_e5m2", "float8_e4m3fn"):
        refuses(DtypeError, [f"q is {name}"], ma.attention, *(a.astype(getattr(need("ml_dtypes"), name)) for a in (Q, K, V)))


def test_types_that_fit_none(need):
    """float16 and bfloat16 hold each other's numbers in neither: nobody guesses which the caller meant."""
    mixed = Q.astype(np.float16), K.astype(need("ml_dtypes").bfloat16), V.astype(np.float16)
    refuses(DtypeError, ["q float16, k bfloat16, v float16", "convert them to one"], ma.attention, *mixed)
