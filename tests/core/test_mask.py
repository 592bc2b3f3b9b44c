"""Mask: rules, their algebra, what can be seen of them, and what is refused."""

import functools
import operator

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import minattn as ma
from minattn import Mask, masks
from minattn.core.errors import MaskError, OptionError, PositionError, ShapeError

LEAVES = {
    "causal": masks.causal(),
    "last": masks.last(3),
    "first": masks.first(2),
    "third": Mask(lambda i, j: (i - j) % 3 == 0),
    "all": Mask(lambda i, j: True),
    "heads": Mask(lambda b, h, i, j: j % 2 == h % 2),
    "rows": masks.padding([5, 2]),
    "index": masks.segments(np.array([0, 0, 1, 1, 1]), np.array([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]])),
}
SIZES = {"N": 5, "S": 6, "batch": 2, "heads": 3}


def full(mask, **positions):
    return np.broadcast_to(mask.dense(**SIZES, **positions), (2, 3, 5, 6))


@st.composite
def expressions(draw):
    """A mask made of leaves with & | ~, beside the array that the same algebra of their arrays gives."""
    leaf = lambda name: (LEAVES[name], full(LEAVES[name]))  # noqa: E731
    combine = lambda children: st.one_of(  # noqa: E731
        st.tuples(children, children, st.sampled_from([operator.and_, operator.or_])).map(lambda t: tuple(map(t[2], t[0], t[1]))),
        children.map(lambda pair: (~pair[0], ~pair[1])),
    )
    return draw(st.recursive(st.sampled_from(sorted(LEAVES)).map(leaf), combine, max_leaves=8))


@hypothesis.given(expressions())
def test_algebra_is_that_of_arrays(expression):
    mask, array = expression
    np.testing.assert_array_equal(full(mask), array)


@hypothesis.given(expressions(), expressions())
def test_de_morgan_and_double_negation(a, b):
    a, b = a[0], b[0]
    np.testing.assert_array_equal(full(~(a & b)), full(~a | ~b))
    np.testing.assert_array_equal(full(~(a | b)), full(~a & ~b))
    np.testing.assert_array_equal(full(~~a), full(a))


@hypothesis.given(expressions())
def test_attention_sees_what_dense_shows(expression):
    mask, array = expression
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((2, 3, 6, 4))
    np.testing.assert_array_equal(ma.attention_weights(q, k, mask=mask) > 0, array)


@hypothesis.given(expressions(), st.randoms())
def test_positions_are_data(expression, random):
    """A mask at any positions is the square one, looked up there; nobody sees a key at -1, whatever the algebra."""
    mask, _ = expression
    hypothesis.assume("segments" not in mask.name)  # which goes by index, not by position
    rng = np.random.default_rng(random.randrange(2**32))
    q_pos, k_pos = rng.integers(0, 9, (2, 5)), rng.integers(-1, 9, (2, 6))
    square = np.broadcast_to(mask.dense(9, 9, batch=2, heads=3), (2, 3, 9, 9))
    got = full(mask, q_pos=q_pos, k_pos=k_pos)
    for b, h, n, s in np.ndindex(got.shape):
        assert got[b, h, n, s] == (k_pos[b, s] >= 0 and square[b, h, q_pos[b, n], k_pos[b, s]])


def test_shapes_of_dense():
    assert masks.causal().dense(3, 5).shape == (3, 5)
    assert masks.causal().dense(3, 5, batch=2, heads=4).shape == (3, 5)  # one square says it all
    assert masks.padding([2, 3, 1]).dense(3, 5).shape == (3, 1, 3, 5)
    assert Mask(lambda b, h, i, j: j <= h).dense(3, 5, batch=2, heads=4).shape == (2, 4, 3, 5)
    assert masks.causal().dense(3, 5, q_pos=np.zeros((4, 3), int)).shape == (4, 1, 3, 5)
    assert masks.causal().dense(0, 5).shape == (0, 5)
    assert masks.causal().dense(3, 0).shape == (3, 0)
    assert masks.padding(np.zeros(0, int)).dense(3, 5).shape == (0, 1, 3, 5)


def test_dense_is_the_caller_s_own():
    a = Mask(lambda i, j: True).dense(3, 4)
    a[0, 0] = False
    assert a.sum() == 11


def test_dense_default_positions():
    np.testing.assert_array_equal(masks.causal().dense(2, 5), np.tri(2, 5, 3, dtype=bool))
    np.testing.assert_array_equal(masks.causal().dense(5, 2), np.tri(5, 2, -3, dtype=bool))


def test_rules_of_four_arguments_know_row_and_head():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 3, 4, 5, 8)), rng.standard_normal((2, 3, 2, 6, 8))
    table = rng.random((6, 4, 5, 6)) < 0.5
    mask = Mask(lambda b, h, i, j: table[b, h, i - 1, j])  # b is the flat index over the axes before the heads
    np.testing.assert_array_equal(ma.attention_weights(q, k, mask=mask) > 0, table.reshape(2, 3, 4, 5, 6))


def test_rules_with_settings_of_their_own():
    def near(i, j, reach=2):
        return abs(i - j) <= reach

    assert Mask(near).name == "near"
    np.testing.assert_array_equal(Mask(near).dense(4, 4), masks.window(2, 2).dense(4, 4))
    np.testing.assert_array_equal(Mask(functools.partial(near, reach=1)).dense(4, 4), masks.window(1, 1).dense(4, 4))


def test_an_entry_depends_on_its_own_arguments():
    """Rows and heads chosen by attention_weights keep their index, so a mask is evaluated as in the whole."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((2, 3, 6, 4))
    mask = LEAVES["index"] | (LEAVES["heads"] & LEAVES["rows"])
    got = ma.attention_weights(q, k, mask=mask, heads=[2, 0], rows=[4, 1, 1])
    np.testing.assert_array_equal(got > 0, full(mask)[:, [2, 0]][:, :, [4, 1, 1]])


def test_repr_draws():
    assert repr(masks.causal()).splitlines()[0] == "<Mask causal: 8 queries down, 8 keys across, # may attend>"
    lines = repr(masks.last(2)).splitlines()[1:]
    drawn = [[cell == "#" for cell in line.split()] for line in lines]
    np.testing.assert_array_equal(drawn, masks.last(2).dense(8, 8))
    assert repr(masks.padding([2, 5])).splitlines()[:2] == [
        "<Mask padding: 8 queries down, 8 keys across, row b = 0, head h = 0, # may attend>", "# # . . . . . .",
    ]  # fmt: skip
    wide = repr(masks.segments(np.zeros(40, int), np.zeros(50, int))).splitlines()
    assert wide[0] == "<Mask segments: 16 queries down, 32 keys across, # may attend>"
    assert [len(line.split()) for line in wide[1:]] == [32] * 16


@pytest.mark.parametrize(
    "mask", [masks.segments(np.zeros(0, int)), masks.segments([0], np.zeros(0, int)), masks.padding(np.zeros(0, int))]
)
def test_repr_of_nothing(mask):
    assert repr(mask).startswith("<Mask ")


def test_names_keep_their_brackets():
    a, b, c = masks.causal(), masks.last(2), masks.first(1)
    assert ((a | b) & c).name == "(causal | last(2)) & first(1)"
    assert (a | b & c).name == "causal | last(2) & first(1)"
    assert (~(a & b)).name == "~(causal & last(2))"
    assert (~a & b).name == "~causal & last(2)"
    assert (~masks.window(2, 1)).name == "~(window(2, 1))"


# what is refused -----------------------------------------------------------------------------------------------------

ARRAY = np.ones((3, 3), bool)


@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda: Mask(ARRAY), MaskError, "rule is ndarray; a Mask needs a function"),
    (lambda: Mask(lambda i: i), MaskError, r"rule takes 1 arguments \(i\); it must be rule\(i, j\) or rule\(b, h, i, j\)"),
    (lambda: Mask(lambda h, i, j: i), MaskError, r"rule takes 3 arguments \(h, i, j\)"),
    (lambda: Mask(lambda *a: a), MaskError, "rule takes 0 arguments"),
    (lambda: Mask(lambda i, j: i - j, name="gap").dense(3, 3), MaskError, r"mask gap: its rule returns int64.*astype\(bool\)"),
    (lambda: Mask(lambda i, j: i >= j and j > 0).dense(3, 3), MaskError, r"array arithmetic, with & \| ~ for and, or, not"),
    (lambda: Mask(lambda i, j: not i > j).dense(3, 3), MaskError, "array arithmetic"),
    (lambda: Mask(lambda i, j: j <= i <= j + 3).dense(3, 3), MaskError, "no a < b < c"),
    (lambda: Mask(lambda i, j: True if i > j else False).dense(3, 3), MaskError, "array arithmetic"),
    (lambda: Mask(lambda i, j: np.ones(4, bool)).dense(3, 3), ShapeError,
        r"returns shape \(4,\) for \(B, H, N, S\) = \(1, 1, 3, 3\)"),
    (lambda: masks.causal() & ARRAY, MaskError, r"cannot combine a Mask with ndarray.*dense\(N, S\) & array"),
    (lambda: ARRAY & masks.causal(), MaskError, r"cannot combine a Mask with ndarray.*dense\(N, S\) & array"),
    (lambda: ARRAY | masks.causal(), MaskError, r"cannot combine a Mask with ndarray.*dense\(N, S\) \| array"),
    (lambda: masks.causal() | True, MaskError, "cannot combine a Mask with bool"),
    (lambda: masks.causal() & (lambda i, j: i), MaskError, "cannot combine a Mask with function"),
    (lambda: masks.causal() and masks.first(1), MaskError, r"no single truth value.*& \| ~"),
    (lambda: not masks.causal(), MaskError, "no single truth value"),
    (lambda: bool(masks.causal()), MaskError,
        "no single truth value"),
    (lambda: masks.padding([1, 2]) & masks.padding([1, 2, 3]), ShapeError,
        "mask padding is made for B = 2 but mask padding for B = 3"),
    (lambda: masks.segments([0, 1]) | masks.segments([0, 1, 1]), ShapeError, "made for N = 2 but mask segments for N = 3"),
    (lambda: masks.segments([0, 1]).dense(2, 3), ShapeError,
        "mask segments is made for S = 2 but the scores have S = 3"),
    (lambda: masks.segments([0, 1], [0]).dense(1, 1), ShapeError, "made for N = 2 but the scores have N = 1"),
    (lambda: (masks.causal() & ~masks.padding([1, 2])).dense(2, 3, batch=3), ShapeError,
        "made for B = 2 but the scores have B = 3"),
    (lambda: masks.causal().dense(3.0, 4), OptionError, "N is 3.0; it must be an integer"),
    (lambda: masks.causal().blocks(3, -4), OptionError, "S = -4; it must be at least 0"),
    (lambda: masks.causal().dense(3, 4, heads=0), OptionError, "heads = 0; it must be at least 1"),
    (lambda: masks.causal().dense(3, 4, batch="2"), OptionError, "batch is '2'"),
    (lambda: masks.causal().dense(3, 4, q_pos=np.arange(4)), ShapeError, r"q_pos is \(4,\).*N = 3"),
    (lambda: masks.causal().dense(3, 4, k_pos=np.arange(3)), ShapeError, r"k_pos is \(3,\).*S = 4"),
    (lambda: masks.causal().dense(2, 3, q_pos=np.zeros((3, 2), int), k_pos=np.zeros((2, 3), int)), ShapeError,
        r"k_pos is \(2, 3\).*\(3,\)"),
    (lambda: masks.causal().dense(2, 3, batch=2, q_pos=np.zeros((3, 2), int)), ShapeError, r"q_pos is \(3, 2\).*\(2,\)"),
    (lambda: masks.causal().dense(2, 3, q_pos=np.zeros(2)), PositionError, "q_pos is float64; positions are integers"),
])  # fmt: skip
def test_refused(make, kind, words):
    with pytest.raises(kind, match=words) as caught:
        make()
    assert isinstance(caught.value, ma.MinattnError)
    assert isinstance(caught.value, ValueError)


def test_errors_of_a_rule_itself_come_through():
    with pytest.raises(ZeroDivisionError):
        Mask(lambda i, j: (1 // 0) > i).dense(2, 2)
    with pytest.raises(IndexError):
        Mask(lambda i, j: np.ones(2, bool)[j]).dense(2, 3)
