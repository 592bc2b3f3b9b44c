"""What MultiHeadAttention refuses, when it is made and when it is called."""
import numpy as np
import pytest

import minattn as ma
from minattn import MultiHeadAttention
from minattn.core.errors import CacheError, DtypeError, MaskError, OptionError, ShapeError

ONE = np.ones
GOOD = {"w_q": ONE((7, 24)), "w_k": ONE((7, 8)), "w_v": ONE((7, 6)), "w_o": ONE((18, 9)), "heads": 6, "kv_heads": 2}


@pytest.mark.parametrize(("wrong", "kind", "words"), [
    ({"heads": 0}, OptionError, "heads = 0; it must be at least 1"),
    ({"heads": 6.0}, OptionError, "heads is 6.0; it must be an integer"),
    ({"kv_heads": 0}, OptionError, "kv_heads = 0"),
    ({"kv_heads": 4}, ShapeError, "H = 6 query heads and G = 4 KV heads; H must be a multiple of G"),
    ({"w_q": ONE((7, 25))}, ShapeError, r"w_q is \(7, 25\); it must be \(E, H \* D\), a multiple of H = 6 columns"),
    ({"w_k": ONE((7, 7))}, ShapeError, r"w_k is \(7, 7\).*G = 2"),
    ({"w_k": ONE((7, 10))}, ShapeError, "w_k has D = 5 but w_q has D = 4; they must share D"),
    ({"w_v": ONE(6)}, ShapeError, r"w_v is \(6,\)"),
    ({"w_o": ONE((24, 9))}, ShapeError, r"w_o is \(24, 9\).*H \* Dv = 18"),
    ({"b_o": ONE(8)}, ShapeError, r"b_o is \(8,\) but w_o has E_out = 9"),
])  # fmt: skip
def test_refused_when_made(wrong, kind, words):
    with pytest.raises(kind, match=words):
        MultiHeadAttention(**{**GOOD, **wrong})


@pytest.mark.parametrize(("wrong", "kind", "words"), [
    ({"width": 12.0}, OptionError, "width is 12.0; it must be an integer"),
    ({"width": -12}, OptionError, "width = -12; it must be at least 1"),
    ({"heads": 2.0, "kv_heads": 2}, OptionError, "heads is 2.0"),
    ({"heads": 5}, ShapeError, "E = 12 does not divide into H = 5 heads"),
])  # fmt: skip
def test_refused_when_drawn(wrong, kind, words):
    with pytest.raises(kind, match=words):
        MultiHeadAttention.random(**{"width": 12, "heads": 6, **wrong})


X = np.ones((2, 5, 7))


@pytest.mark.parametrize(("call", "kind", "words"), [
    (lambda m: m(X[..., :6]), ShapeError, r"w_q is \(7, 24\) but its input is \(2, 5, 6\)"),
    (lambda m: m(X[0, 0]), ShapeError, r"w_q is \(7, 24\) but its input is \(7,\)"),
    (lambda m: m(X, np.ones((2, 4, 6))), ShapeError, r"w_k is \(7, 8\) but its input is \(2, 4, 6\)"),
    (lambda m: m(X, np.ones((3, 4, 7))), ShapeError, r"q \(2,\), k \(3,\)"),
    (lambda m: m(X, mask=np.ones((5, 5))), MaskError, "mask is float64"),
    (lambda m: m(X, lengths=[1, 2]), OptionError, r"lengths go with a cache; without one, use mask=masks\.padding\(lengths\)"),
    (lambda m: m(X, X, cache=m.new_cache(2, 9)), OptionError, "without context and positions"),
    (lambda m: m(X, positions=np.arange(5), cache=m.new_cache(2, 9)), OptionError, "without context and positions"),
    (lambda m: m(X[0], cache=m.new_cache(1, 9)), ShapeError, r"x is \(5, 7\); with a cache it must be \(B, N, E\)"),
    (lambda m: m(X, cache=m.new_cache(3, 9)), ShapeError, r"k_new is \(B=2.*this cache takes \(B=3"),
    (lambda m: m(X, cache=m.new_cache(2, 4)), CacheError, "the cache is full"),
    (lambda m: m(X * 1j), DtypeError, "q is complex128"),
    (lambda m: m.backward(np.ones((2, 5, 7)), X), ShapeError,
        r"dout is \(2, 5, 7\); it must be \(\.\.\., N, E_out\) = \(2, 5, 9\)"),
    (lambda m: MultiHeadAttention.from_mha(m, kv_heads=4), ShapeError, "G = 4 new KV heads do not divide the G = 2"),
    (lambda m: MultiHeadAttention.from_mha(m, kv_heads=0), OptionError, "kv_heads = 0"),
    (lambda m: MultiHeadAttention.random(10, heads=3), ShapeError, "E = 10 does not divide into H = 3 heads"),
], ids=range(16))  # fmt: skip
def test_refused(call, kind, words):
    module = MultiHeadAttention(**GOOD)
    with pytest.raises(kind, match=words) as caught:
        call(module)
    assert isinstance(caught.value, ma.MinattnError)
