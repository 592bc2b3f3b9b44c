"""One update with settings: a step that fades and writes, the delta rule, RWKV-7's transition, a swap, and the implied map.

    S   state, (D, Dv)       A_n   transition of a token, (D, D)       S_n = A_n S_{n-1} + k_n v_n^T,     o_n = q_n S_n

Sun et al. 2023, arXiv:2307.08621, eq (6); Yang et al. 2024, arXiv:2406.06484; Peng et al. 2025, arXiv:2503.14456.
"""
import numpy as np

from .exercise import Blank, Exercise, Wrong


def unit(a):
    """Each row with length 1."""
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


# --- one token ----------------------------------------------------------------------------------------------------


def _tokens(rng):
    """A state that is there already; D above and below Dv, and equal to it."""
    return [(rng.standard_normal((D, Dv)), *rng.standard_normal((2, D)), rng.standard_normal(Dv), rng.uniform(0.1, 0.9, D))
            for D, Dv in ((4, 3), (2, 5), (3, 3))]


def _step(new=lambda S, k, v, w: w[:, None] * S + np.outer(k, v), read=lambda S, q, k, new: q @ new):
    """A step with another update, or another reading."""

    def fn(state, q, k, v, decay):
        after = new(state, k, v, decay)
        return read(state, q, k, after), after

    return fn


state_step = Exercise(
    name="state_step", signature="state_step(state, q, k, v, decay)", lesson="16", inputs=_tokens, reference=_step(),
    outputs=["out (Dv)", "state (D, Dv)"],
    wrong=[
        Wrong("nothing fades", _step(lambda S, k, v, w: S + np.outer(k, v)), "Where does decay enter?"),
        Wrong("the write fades too", _step(lambda S, k, v, w: w[:, None] * (S + np.outer(k, v))),
              "Start from a state of zeros. What should the first token leave there?"),
        Wrong("only the write fades", _step(lambda S, k, v, w: S + np.outer(w * k, v)),
              "Send ten tokens whose values are 0. What is left of an old value?"),
        Wrong("read before the write", _step(read=lambda S, q, k, new: q @ S),
              "Does a token see itself? In attention it does."),
        Wrong("read after fading, before the write",
              lambda S, q, k, v, w: (q @ (w[:, None] * S), w[:, None] * S + np.outer(k, v)),
              "Does a token see itself? In attention it does."),
        Wrong("read with the key", _step(read=lambda S, q, k, new: k @ new), "Which of q and k asks?"),
        Wrong("written where the query points", lambda S, q, k, v, w: (q @ (w[:, None] * S + np.outer(q, v)),
                                                                       w[:, None] * S + np.outer(q, v)),
              "Which of q and k says where a value is stored?"),
        Wrong("decay taken for its logarithm", _step(lambda S, k, v, w: np.exp(w)[:, None] * S + np.outer(k, v)),
              "Is what fades smaller afterwards, or larger?"),
        Wrong("what is lost is kept", _step(lambda S, k, v, w: (1 - w)[:, None] * S + np.outer(k, v)),
              "With a decay of 0.9, how much of the state is to stay?"),
        Wrong("the state replaced", _step(lambda S, k, v, w: np.outer(k, v)), "What becomes of the state that came in?"),
        Wrong("a mean of old and new", _step(lambda S, k, v, w: w[:, None] * S + np.outer((1 - w) * k, v)),
              "How much of the value is written: all of it, or what the decay leaves room for?"),
    ],
)  # fmt: skip

# --- correct what is held -----------------------------------------------------------------------------------------


def _corrections(rng):
    """Keys that are not of length 1, and strengths below and above 1."""
    return [(rng.standard_normal((D, Dv)), 1.3 * rng.standard_normal(D), rng.standard_normal(Dv), float(beta))
            for D, Dv, beta in ((4, 3, 0.37), (2, 5, 1.64), (5, 2, 0.81))]


def _right_delta(state, k, v, beta):
    return state + beta * np.outer(k, v - k @ state)


def _write_first(state, k, v, beta):
    state = state + beta * np.outer(k, v)
    return state - beta * np.outer(k, k @ state)


delta_step = Exercise(
    name="delta_step", signature="delta_step(state, k, v, beta)", lesson="16", inputs=_corrections, reference=_right_delta,
    outputs=["state (D, Dv)"],
    wrong=[
        Wrong("nothing taken away", lambda S, k, v, beta: S + beta * np.outer(k, v),
              "Write the same key twice, with beta = 1. What should be read there: both values, or the second?"),
        Wrong("the whole of the old value taken away", lambda S, k, v, beta: S + np.outer(k, beta * v - k @ S),
              "With beta = 0 nothing may change. Put it in by hand."),
        Wrong("the whole of the new value written", lambda S, k, v, beta: S + np.outer(k, v - beta * (k @ S)),
              "With beta = 0 nothing may change. Put it in by hand."),
        Wrong("added where it is to be taken away", lambda S, k, v, beta: S + beta * np.outer(k, v + k @ S),
              "What the key already holds: is it added, or subtracted?"),
        Wrong("the difference turned round", lambda S, k, v, beta: S - beta * np.outer(k, v - k @ S),
              "With a key of length 1 and beta = 1, is v what is read afterwards?"),
        Wrong("written first, erased then", _write_first,
              "Of what is the difference taken: of the state before the write, or after?"),
        Wrong("all keys fade", lambda S, k, v, beta: (1 - beta) * S + beta * np.outer(k, v),
              "What happens to a value whose key is orthogonal to k?"),
        Wrong("beta twice", lambda S, k, v, beta: S + beta**2 * np.outer(k, v - k @ S),
              "Count how often beta meets the difference."),
        Wrong("beta left out", lambda S, k, v, beta: S + np.outer(k, v - k @ S), "Where does beta enter?"),
        Wrong("key divided by its length", lambda S, k, v, beta: _right_delta(S, unit(k), v, beta),
              "Is the key's length in the rule? Take k as it is."),
    ],
)  # fmt: skip

# --- RWKV-7 -------------------------------------------------------------------------------------------------------


def _transitions(rng):
    return [(rng.uniform(0.55, 1, D), unit(rng.standard_normal(D)), rng.uniform(0.1, 0.9, D)) for D in (4, 3, 2)]


def _transition(w, kappa, a):
    return np.diag(w) - np.outer(a * kappa, kappa)


rwkv7_transition = Exercise(
    name="rwkv7_transition", signature="rwkv7_transition(w, kappa, a)", lesson="16", inputs=_transitions, reference=_transition,
    outputs=["transition (D, D)"],
    wrong=[
        Wrong("transposed", lambda w, kappa, a: _transition(w, kappa, a).T,
              "Which factor reads the state, standing at its left: kappa, or a * kappa?"),
        Wrong("added where it is to be taken away", lambda w, kappa, a: np.diag(w) + np.outer(a * kappa, kappa),
              "With w = 1 and a = 1, what should a state along kappa become?"),
        Wrong("what remains fades too", lambda w, kappa, a: np.diag(w) @ (np.eye(len(w)) - np.outer(a * kappa, kappa)),
              "Is the part that is taken away read before the decay, or after? The rule has S_{n-1} in both terms."),
        Wrong("erased after the decay", lambda w, kappa, a: (np.eye(len(w)) - np.outer(a * kappa, kappa)) @ np.diag(w),
              "Is the part that is taken away read before the decay, or after? The rule has S_{n-1} in both terms."),
        Wrong("no decay", lambda w, kappa, a: np.eye(len(w)) - np.outer(a * kappa, kappa), "Where does w enter?"),
        Wrong("nothing taken away", lambda w, kappa, a: np.diag(w), "Where do kappa and a enter?"),
        Wrong("a left out", lambda w, kappa, a: np.diag(w) - np.outer(kappa, kappa), "Where does a enter?"),
        Wrong("a on both sides", lambda w, kappa, a: np.diag(w) - np.outer(a * kappa, a * kappa),
              "How many factors of a does one entry of the matrix have?"),
        Wrong("diagonal only", lambda w, kappa, a: np.diag(w - a * kappa**2),
              "How many numbers of the matrix differ from 0? One channel's content may move to another."),
    ],
)  # fmt: skip

# --- state tracking -----------------------------------------------------------------------------------------------


def _acts(answer, D, i, j):
    """What a delta step does to a state of D rows: the same whichever sign the key has."""
    came = answer(D, i, j)
    if came is None:
        raise Blank
    k, beta = came
    k = np.asarray(k)
    return np.eye(D) - beta * np.outer(k, k)


def _swap(between=lambda a, b: (a - b) / np.sqrt(2), beta=2.0):
    def fn(D, i, j):
        one = np.eye(D)
        return between(one[i], one[j]), beta

    return fn


swap_step = Exercise(
    name="swap_step", signature="swap_step(D, i, j)", lesson="16", inputs=lambda rng: [(3, 0, 1), (5, 4, 2), (4, 1, 3)],
    reference=_swap(), drive=_acts, outputs=["transition (D, D)"],
    wrong=[
        Wrong("beta of 1", _swap(beta=1.0),
              "Apply your step twice. After two swaps all cups are back; is anything lost in yours?"),
        Wrong("length not 1", _swap(lambda a, b: a - b), "What is the length of your key? The step takes away beta |k|^2 of it."),
        Wrong("the sum of the two", _swap(lambda a, b: (a + b) / np.sqrt(2)),
              "Which direction is turned round by a swap: the difference of the two rows, or their sum?"),
        Wrong("one row alone", _swap(lambda a, b: a), "What does a step along one row do to that row? And to the other?"),
        Wrong("the other row alone", _swap(lambda a, b: b), "What does a step along one row do to that row? And to the other?"),
    ],
)  # fmt: skip

# --- the map ------------------------------------------------------------------------------------------------------


def _maps(rng):
    """Transitions that do not commute, of three sizes."""
    return [(*rng.standard_normal((2, N, D)), 0.7 * rng.standard_normal((N, D, D)) / D**0.5 + 0.4 * np.eye(D))
            for N, D in ((5, 3), (4, 2), (6, 4))]


def _implied(first=1, last=1, turned=False, transposed=False, seen=lambda n: n + 1, exchanged=False):
    """The map from products over A_n .. A_{m+1}; `first` and `last` move its two ends, `seen` how many keys a query has."""

    def fn(q, k, transitions):
        N, D = q.shape
        steps = transitions.swapaxes(-1, -2) if transposed else transitions
        weights = np.zeros((N, N))
        for n in range(N):
            for m in range(min(seen(n), N)):
                product = np.eye(D)
                for t in range(m + first, n + last):
                    product = product @ steps[t] if turned else steps[t] @ product
                weights[n, m] = k[n] @ product @ q[m] if exchanged else q[n] @ product @ k[m]
        return weights

    return fn


implied_map = Exercise(
    name="implied_map", signature="implied_map(q, k, transitions)", lesson="16", inputs=_maps, reference=_implied(),
    outputs=["weights (N, N)"],
    wrong=[
        Wrong("product the other way round", _implied(turned=True),
              "Three steps, A_1, A_2, A_3: which of them meets k first, and so stands at its side?"),
        Wrong("the key's own step counted", _implied(first=0), "Does A_m act on what token m itself writes?"),
        Wrong("the query's own step left out", _implied(last=0), "Token n fades the state before it reads. Where is A_n?"),
        Wrong("both ends moved by one", _implied(first=0, last=0), "Does A_m act on what token m itself writes? And A_n?"),
        Wrong("no steps between", _implied(last=-99), "What happens to what token m wrote before token n reads it?"),
        Wrong("later keys seen", _implied(seen=lambda n: 99), "What can token n have read of token n + 1?"),
        Wrong("a token does not see itself", _implied(seen=lambda n: n),
              "Token n writes and then reads. What is its weight on itself?"),
        Wrong("transitions transposed", _implied(transposed=True), "S_n = A_n S_{n-1}: which index of A_n is summed over?"),
        Wrong("q and k exchanged", _implied(exchanged=True), "Which of the two stands at the reading end of the product?"),
    ],
)  # fmt: skip
