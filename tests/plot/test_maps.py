"""Pictures of maps: what is drawn is what was given, and what cannot be drawn truthfully is refused."""
import itertools
import warnings

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt

import minattn as ma
from minattn.plot.draw import pooled
from minattn.plot.style import DIVERGING, SEQUENTIAL, THEMES, luminance

PlotError, PlotWarning = ma.errors.PlotError, ma.plot.PlotWarning


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def drawn_map(*shape, causal=False, seed=0):
    """Weights of drawn queries and keys, (..., N, S)."""
    rng = np.random.default_rng(seed)
    *lead, N, S = shape
    return ma.attention_weights(rng.standard_normal((*lead, N, 5)), rng.standard_normal((*lead, S, 5)), causal=causal)


def words(size):
    return [f"w{n}" for n in range(size)]


def pixel(ax, n, s):
    """The colour on paper at the centre of cell (n, s), 0..1."""
    ax.figure.canvas.draw()
    x, y = ax.transData.transform((s, n))
    picture = np.asarray(ax.figure.canvas.buffer_rgba())
    return picture[picture.shape[0] - 1 - int(y), int(x), :3] / 255


@pytest.mark.parametrize(("N", "S"), [(1, 1), (3, 7), (7, 3), (17, 17), (1, 65)])
def test_the_image_is_the_map(N, S):
    weights = drawn_map(1, N, S)[0]
    ax = ma.plot.heatmap(weights, words(N), key_tokens=[f"k{s}" for s in range(S)])
    image, = ax.images
    np.testing.assert_array_equal(image.get_array(), weights)
    assert not np.ma.getmaskarray(image.get_array()).any()
    assert image.get_clim() == (0, 1)
    assert image.get_cmap().name == SEQUENTIAL
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key (attended to)", "query (attends)")
    for n, text in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
        assert text.get_text() == f"w{n}"
    for s, text in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True):
        assert text.get_text() == f"k{s}"
    assert ax.get_ylim() == (N - 0.5, -0.5)                           # query 0 on top


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_hidden_is_grey_and_zero_is_not(theme):
    weights = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0, 1, 0]])
    ax = ma.plot.heatmap(weights, mask=ma.masks.causal(), theme=theme)
    low, high = sorted(np.mean(mpl.colors.to_rgb(grey)) for grey in (THEMES[theme].hidden, THEMES[theme].hatch))
    zero = mpl.colormaps[SEQUENTIAL](0.0)[:3]
    for n, s in [(0, 1), (0, 2), (1, 2)]:
        found = pixel(ax, n, s)
        assert np.ptp(found) < 0.06                                   # grey: no hue, whether on a hatch line or beside it
        assert low - 0.02 <= found.mean() <= high + 0.02
    ax = ma.plot.heatmap(np.eye(9), mask=np.tri(9, dtype=bool), theme=theme)      # 9: no numbers in the cells
    np.testing.assert_allclose(pixel(ax, 5, 2), zero, atol=0.02)      # 0, and it was allowed to look
    assert np.ptp(pixel(ax, 2, 5)) < 0.06


def test_without_a_mask_no_zero_is_taken_for_hidden():
    ax = ma.plot.heatmap(drawn_map(9, 9, causal=True))
    assert not np.ma.getmaskarray(ax.images[0].get_array()).any()
    assert not ax.patch.get_hatch()


def test_a_mask_and_its_dense_form_draw_the_same():
    rule = ma.masks.last(3) & ma.masks.causal()
    weights = ma.attention_weights(np.ones((5, 2)), np.eye(7, 2), mask=rule)
    one, two = (ma.plot.heatmap(weights, mask=mask).images[0].get_array() for mask in (rule, rule.dense(5, 7)))
    np.testing.assert_array_equal(np.ma.getmaskarray(one), np.ma.getmaskarray(two))
    np.testing.assert_array_equal(np.ma.getmaskarray(one), ~rule.dense(5, 7))


def test_weight_under_the_mask_is_shown_and_told():
    weights = drawn_map(4, 4)
    with pytest.warns(PlotWarning, match=r"hides key 1 from query 0, but its weight there is .*6 such cells"):
        ax = ma.plot.heatmap(weights, mask=ma.masks.causal())
    np.testing.assert_array_equal(ax.images[0].get_array(), weights)
    assert not np.ma.getmaskarray(ax.images[0].get_array()).any()


def test_row_sums(need):
    weights = drawn_map(3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ma.plot.heatmap(weights * 0.7)                                # below 1 is normal
        ma.plot.heatmap(weights.astype(np.float16))
        ma.plot.heatmap(weights.astype(np.float32))
        ma.plot.heatmap(weights.astype(need("ml_dtypes").bfloat16))
    weights[1] *= 1.01
    with pytest.warns(PlotWarning, match=r"row 1 .*sums to 1\.01, above 1 .*query 1; 1 such rows") as caught:
        ma.plot.heatmap(weights)
    assert caught[0].filename == __file__                             # the warning points at the caller's line
    with pytest.warns(PlotWarning, match=r"row 1 .*layer 2, head 1, query 1"):
        ma.plot.heads(np.stack([np.stack([weights / 1.01] * 2)] * 2 + [np.stack([weights / 1.01, weights])]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(bad):
    weights = drawn_map(2, 3, 5).astype(np.float32)
    weights[1, 2, 4] = bad
    with pytest.raises(PlotError, match=r"weights\[2, 4\] is .*query 2, key 4"):
        ma.plot.heatmap(weights[1])
    with pytest.raises(PlotError, match=r"weights\[1, 2, 4\] is .*head 1, query 2, key 4"):
        ma.plot.heads(weights)
    assert not plt.get_fignums()                                      # nothing half drawn stays behind


@pytest.mark.parametrize(("call", "words_of_the_error"), [
    (lambda w: ma.plot.heatmap(w, words(4)), "tokens has 4 labels but the map has N = 3"),
    (lambda w: ma.plot.heatmap(w, words(5)), "N = 3: one for each query; the keys' labels go in key_tokens="),
    (lambda w: ma.plot.heatmap(w, words(3), key_tokens=words(3)), "key_tokens has 3 labels but the map has S = 5"),
    (lambda w: ma.plot.heatmap(w, "the"), "tokens is one string"),
    (lambda w: ma.plot.heatmap(w, 3), "tokens is int; a list with one label for each query"),
    (lambda w: ma.plot.heatmap(w * 1j), "weights has dtype complex128; a map is an array of real numbers"),
    (lambda w: ma.plot.heatmap(np.ma.masked_less(w, 0.1)), "weights is a masked array"),
    (lambda w: ma.plot.heads([[w, w[1:]]]), "weights: rows of unequal length"),
    (lambda w: ma.plot.heatmap(w, mask=[[True], [True, True]]), "mask: rows of unequal length"),
    (lambda w: ma.plot.heatmap(w, vmax=0), "vmax = 0.0; the end of a scale must be above 0"),
    (lambda w: ma.plot.heatmap(-w, vmax=-1), "vmax = -1.0"),
    (lambda w: ma.plot.heatmap(w, vmax=np.nan), "vmax = nan"),
    (lambda w: ma.plot.heatmap(w, vmax="large"), "vmax is 'large'"),
    (lambda w: ma.plot.heatmap(w, max_cells=0), "max_cells = 0; it must be at least 1"),
    (lambda w: ma.plot.mask(w > 0, max_cells=2.5), "max_cells is 2.5"),
    (lambda w: ma.plot.heatmap(w, ax=np.array([1, 2])), "ax is ndarray; it must be one Matplotlib Axes"),
    (lambda w: ma.plot.heads(w[None], fig="figure"), "fig is str; it must be one Matplotlib Figure"),
    (lambda w: ma.plot.heads(w[None], columns=0), "columns = 0; it must be at least 1"),
    (lambda w: ma.plot.steps(w), r"steps holds scores of shape \(\).*call minattn.steps on one head"),
    (lambda w: ma.plot.mask(ma.masks.causal(), 3.0), "N is 3.0; it must be an integer"),
    (lambda w: ma.plot.heatmap(w[None]), r"shape \(1, 3, 5\), but one map for each \(N, S\)"),
    (lambda w: ma.plot.heatmap(w[0]), r"shape \(5,\)"),
    (lambda w: ma.plot.heatmap(w[:0]), r"\(N=0, S=5\): there is nothing"),
    (lambda w: ma.plot.heatmap(w > 0.1), "plot.mask draws a mask"),
    (lambda w: ma.plot.heatmap(w.astype(str)), "dtype"),
    (lambda w: ma.plot.heatmap(w, mask=np.ones((5, 3), bool)), r"mask has shape \(5, 3\) but the map is \(N=3, S=5\)"),
    (lambda w: ma.plot.heatmap(w, mask=np.ones((3, 5), int)), r"mask has dtype int.*astype\(bool\)"),
    (lambda w: ma.plot.heatmap(w, theme="solarized"), "theme is 'solarized'"),
    (lambda w: ma.plot.heads(w), r"one map for each \(H, N, S\)"),
    (lambda w: ma.plot.heads(np.stack([w, w]), titles=["a"]), "titles has 1 entries for 2 maps"),
    (lambda w: ma.plot.mask(ma.masks.causal()), "say how many queries and keys"),
    (lambda w: ma.plot.mask(np.ones((3, 5), bool), 4, 5), r"mask has shape \(3, 5\) but the map is \(N=4, S=5\)"),
    (lambda w: ma.plot.mask(np.ones((3, 5))), "mask has dtype float64"),
])  # fmt: skip
def test_errors_name_what_is_wrong(call, words_of_the_error):
    with pytest.raises(ma.MinattnError, match=words_of_the_error):
        call(drawn_map(3, 5))
    assert not plt.get_fignums()


def test_labels_may_come_from_a_generator():
    ax = ma.plot.heatmap(drawn_map(3, 3), (word for word in words(3)))
    for texts in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [text.get_text() for text in texts] == words(3)


def test_negative_entries_take_a_scale_centred_at_zero():
    implied = np.array([[0.5, -2.5], [3.0, 1.0]])
    ax = ma.plot.heatmap(implied)
    assert ax.images[0].get_clim() == (-3, 3)
    assert ax.images[0].get_cmap().name == DIVERGING
    assert "diverging scale, 0 in the middle" in [text.get_text() for text in ax.texts]


@pytest.mark.parametrize(("N", "S", "limit"), [(5, 9, 4), (9, 5, 4), (8, 8, 4), (1, 9, 2), (129, 65, 16)])
def test_pooling_keeps_the_largest_visible_entry_of_each_tile(N, S, limit):
    rng = np.random.default_rng(N * S)
    values, hidden = rng.standard_normal((N, S)), rng.random((N, S)) < 0.4
    cells, grey, t = pooled(values, hidden, limit)
    assert max(cells.shape) <= limit
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            tile = np.s_[row * t:(row + 1) * t, column * t:(column + 1) * t]
            seen = values[tile][~hidden[tile]]
            assert grey[row, column] == (seen.size == 0)
            if seen.size:
                assert cells[row, column] == seen[np.abs(seen).argmax()]


def test_a_pooled_picture_says_so_and_keeps_true_ticks():
    weights = np.eye(100, 130)
    ax = ma.plot.heatmap(weights, max_cells=50)
    assert ax.images[0].get_array().shape == (34, 44)
    assert "each cell is the largest of 3 x 3 entries" in [text.get_text() for text in ax.texts]
    assert ax.get_xlim() == (-0.5, 129.5)
    assert [text.get_text() for text in ax.get_yticklabels()] == [str(n) for n in ax.get_yticks()]
    left, right, bottom, top = ax.images[0].get_extent()              # entry (3a, 3b) is the corner of tile (a, b)
    assert ((right - left) / 44, (bottom - top) / 34, left, top) == (3, 3, -0.5, -0.5)


@pytest.mark.parametrize(("size", "numbered"), [(8, True), (9, False)])
def test_numbers_only_in_small_maps(size, numbered):
    weights = drawn_map(size, size, causal=True)
    ax = ma.plot.heatmap(weights, mask=ma.masks.causal())
    texts = {(int(y), int(x)): text.get_text() for text in ax.texts for x, y in [text.get_position()] if "." in text.get_text()}
    want = {(n, s): f"{weights[n, s]:.2f}" for n in range(size) for s in range(n + 1)}
    assert texts == (want if numbered else {})


def test_numbers_stand_out_from_their_cells():
    ax = ma.plot.heatmap(np.linspace(0, 1, 8)[:, None])
    for text in ax.texts:
        paper = luminance(ax.images[0].to_rgba(ax.images[0].get_array()[int(text.get_position()[1]), 0])[:3])
        ink = luminance(text.get_color())
        assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5


def test_labels_stay_text_and_stay_short():
    tokens = ["$x^$", "internationalisation", "a\nb", " ", "\x00"]
    ax = ma.plot.heatmap(np.eye(5), tokens)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["$x^$", "international…", r"a\nb", "␣", r"\x00"]
    ax.figure.canvas.draw()                                           # "$x^$" as a formula would fail here


def test_many_labels_thin_out():
    ax = ma.plot.heatmap(np.eye(200), words(200))
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.get_yticklabels()]
    assert len(boxes) > 20
    assert all(upper.y0 > lower.y1 - 2 for upper, lower in itertools.pairwise(boxes))


def test_given_axes_are_used_and_global_settings_stay():
    with plt.rc_context({"axes.facecolor": "#123456", "font.size": 17.0}):
        before = dict(mpl.rcParams)
        figure, (left, right) = plt.subplots(1, 2)
        assert ma.plot.heatmap(drawn_map(3, 3), ax=left) is left
        assert ma.plot.mask(ma.masks.causal(), 3, ax=right) is right
        ma.plot.heatmap(drawn_map(3, 3))
        ma.plot.heads(drawn_map(2, 3, 3), fig=plt.figure())
        assert dict(mpl.rcParams) == before
        assert figure.get_layout_engine() is None


def test_a_new_figure_does_not_inherit_the_users_style():
    with plt.rc_context({"image.cmap": "jet", "axes.grid": True, "font.size": 30.0, "figure.facecolor": "red"}):
        ax = ma.plot.heatmap(drawn_map(3, 3))
    assert mpl.colors.to_hex(ax.figure.get_facecolor()) == THEMES["light"].paper
    assert ax.xaxis.label.get_fontsize() == 9


def test_greys_follow_the_axes_they_are_drawn_in():
    with plt.style.context("dark_background"):
        ax = ma.plot.heatmap(np.eye(3), mask=ma.masks.causal(), ax=plt.figure().add_subplot())
    assert mpl.colors.to_hex(ax.patch.get_facecolor()) == THEMES["dark"].hidden


@pytest.mark.parametrize(("shape", "grid"), [((1, 4, 3), (1,)), ((9, 4, 4), (9,)), ((7, 3, 5), (7,)), ((3, 2, 4, 6), (3, 2))])
def test_heads_share_one_scale(shape, grid):
    weights = drawn_map(*shape)
    axes = ma.plot.heads(weights)
    assert axes.shape == grid
    for place in np.ndindex(*grid):
        np.testing.assert_array_equal(axes[place].images[0].get_array(), weights[place])
        assert axes[place].images[0].get_clim() == (0, 1)
        assert axes[place].get_title() == (f"{place[0]}.{place[1]}" if len(grid) == 2 else f"head {place[0]}")
    bars = [ax for ax in axes.ravel()[0].figure.axes if not ax.images]
    assert len(bars) == 1


def test_one_negative_head_centres_the_scale_of_all():
    maps = np.stack([np.full((3, 3), 0.2), np.diag([1.0, -4.0, 2.0])])
    assert {ax.images[0].get_clim() for ax in ma.plot.heads(maps)} == {(-4, 4)}


def test_heads_in_a_part_of_a_figure():
    left, right = plt.figure().subfigures(1, 2)
    axes = ma.plot.heads(drawn_map(4, 3, 3), words(3), fig=right, titles=["a", "b", "c", "d"])
    assert {ax.figure for ax in axes} == {right}
    assert [ax.get_title() for ax in axes] == ["a", "b", "c", "d"]
    assert not left.axes


def test_steps_draws_what_the_library_computed():
    rng = np.random.default_rng(3)
    q, k, v = rng.standard_normal((5, 4)), rng.standard_normal((7, 4)), rng.standard_normal((7, 3))
    taken = ma.steps(q, k, v, causal=True)
    axes = ma.plot.steps(taken, words(5), key_tokens=words(7))
    raw, scaled, weights = (ax.images[0] for ax in axes)
    np.testing.assert_array_equal(raw.get_array(), taken.scores)
    np.testing.assert_array_equal(scaled.get_array().filled(-np.inf), taken.masked)
    np.testing.assert_array_equal(weights.get_array().filled(0), taken.weights)
    hidden = ~ma.masks.causal().dense(5, 7)
    for image, grey in ((raw, False), (scaled, hidden), (weights, hidden)):
        np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), np.broadcast_to(grey, (5, 7)))
    assert weights.get_clim() == (0, 1)
    for image in (raw, scaled):
        low, high = image.get_clim()
        assert low == -high
        assert high == pytest.approx(np.abs(image.get_array()).max())
    assert len(axes[0].figure.axes) == 6                              # each panel has its own colour bar


@pytest.mark.parametrize(("options", "title"), [
    ({}, "scaled"), ({"causal": True}, "scaled and masked"), ({"softcap": 2.0}, "scaled and capped or modified"),
    ({"bias": np.ones((4, 4)), "causal": True}, "scaled, biased and masked"),
])  # fmt: skip
def test_steps_names_only_what_was_done(options, title):
    q, k, v = np.random.default_rng(4).standard_normal((3, 4, 2))
    assert ma.plot.steps(ma.steps(q, k, v, **options))[1].get_title() == title


def test_steps_with_a_fixed_scale_and_a_row_that_sees_nothing():
    q, k, v = np.random.default_rng(5).standard_normal((3, 6, 2))
    mask = np.ones((6, 6), bool)
    mask[2] = False
    axes = ma.plot.steps(ma.steps(q, k, v, mask=mask), limits=(10, 5))
    assert [ax.images[0].get_clim() for ax in axes] == [(-10, 10), (-5, 5), (0, 1)]
    assert np.ma.getmaskarray(axes[2].images[0].get_array())[2].all()


def test_steps_wants_one_head():
    q, k, v = np.random.default_rng(6).standard_normal((3, 2, 4, 3))
    with pytest.raises(PlotError, match=r"scores of shape \(2, 4, 4\); one head is drawn"):
        ma.plot.steps(ma.steps(q, k, v))


@pytest.mark.parametrize(("N", "S"), [(1, 1), (5, 8), (8, 5), (17, 17)])
def test_mask_draws_its_dense_form(N, S):
    rule = ma.masks.window(2, 1)
    image = ma.plot.mask(rule, N, S).images[0]
    np.testing.assert_array_equal(~np.ma.getmaskarray(image.get_array()), rule.dense(N, S))
    np.testing.assert_array_equal(ma.plot.mask(rule.dense(N, S)).images[0].get_array(), image.get_array())


def test_a_long_mask_tells_full_tiles_from_partial_ones():
    allowed = np.random.default_rng(7).random((11, 23)) < 0.5
    allowed[:4, 4:8], allowed[4:8, :4] = True, False
    ax = ma.plot.mask(allowed, max_cells=6)
    cells = ax.images[0].get_array()
    assert cells.shape == (3, 6)
    for row in range(3):
        for column in range(6):
            tile = allowed[4 * row:4 * row + 4, 4 * column:4 * column + 4]
            if not tile.any():
                assert np.ma.getmaskarray(cells)[row, column]
            else:
                assert cells[row, column] == tile.all()
    assert "part of 4 x 4 may" in [text.get_text() for text in ax.get_legend().get_texts()]
