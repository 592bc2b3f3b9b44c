"""The KV cache: the slots of a batch, a window that rolls, and the bytes.

    k, v (B, S, D)    k_pos (B, S), where a key stands in its text, -1 for a slot that holds nothing

Shazeer 2019, arXiv:1911.02150, section 2.4; the window with first tokens: Xiao et al. 2023, arXiv:2309.17453, section 3.2.
"""
import numpy as np

from .exercise import Exercise, Wrong

# --- the slots of a batch -----------------------------------------------------------------------------------------


def _appends(rng):
    """A prompt and single tokens, pieces, and a row that gets nothing; room is left in every row."""
    cases = []
    for batch, head_dim, real in [(2, 3, [[4, 2], [1, 1]]), (3, 2, [[2, 5, 3], [0, 2, 1], [3, 1, 2]]), (2, 5, [[2, 3]])]:
        new = [(*rng.standard_normal((2, batch, max(row), head_dim)), np.array(row)) for row in real]
        cases.append({"batch": batch, "capacity": 4 + sum(max(row) for row in real), "head_dim": head_dim, "appends": new})
    return cases


def _drive(answer, batch, capacity, head_dim, appends):
    """What the last append hands back. The caller's arrays are used again after each append; empty slots do not count."""
    cache = answer(batch, capacity, head_dim)
    for k_new, v_new, lengths in appends:
        given = k_new.copy(), v_new.copy(), lengths.copy()
        came = cache.append(*given)
        if came is None:
            return None
        if not isinstance(came, tuple | list) or len(came) != 3:
            return came
        k, v, k_pos = (np.array(part) for part in came)
        for array in given:
            array[...] = -array - 1
    held = sum(lengths for _, _, lengths in appends)
    real = (np.arange(held.max()) < held[:, None])[..., None]
    k, v = (np.where(real, part, 0) if part.shape == (*real.shape[:2], head_dim) else part for part in (k, v))
    return k, v, k_pos


class _Cache:
    """The right one. A wrong one says otherwise where the new tokens go, what is counted, or what comes back."""

    def __init__(self, batch, capacity, head_dim):
        self.k, self.v = np.zeros((2, batch, capacity, head_dim))
        self.lengths = np.zeros(batch, dtype=int)

    def start(self, row, real):
        return self.lengths[row]

    def real(self, N, lengths):
        return lengths

    def after(self, real):
        return self.lengths + real

    def places(self, S):
        return np.where(np.arange(S) < self.lengths[:, None], np.arange(S), -1)

    def store(self, k_new, v_new, lengths):
        for b, real in enumerate(lengths):
            slots = np.arange(self.start(b, real), self.start(b, real) + real)
            self.k[b, slots], self.v[b, slots] = k_new[b, :real], v_new[b, :real]

    def append(self, k_new, v_new, lengths):
        real = self.real(k_new.shape[1], lengths)
        self.store(k_new, v_new, real)
        self.lengths = self.after(real)
        S = self.lengths.max()
        return self.k[:, :S], self.v[:, :S], self.places(S)


def _wrong(**methods):
    return type("Wrong", (_Cache,), methods)


class _Aliased(_Cache):
    """Keeps the caller's arrays, and copies into its own only when asked."""

    def append(self, k_new, v_new, lengths):
        self.kept = [*getattr(self, "kept", []), (k_new, v_new, lengths.copy(), self.lengths)]
        for k, v, real, before in self.kept:
            self.lengths = before
            self.store(k, v, real)
            self.lengths = before + real
        S = self.lengths.max()
        return self.k[:, :S], self.v[:, :S], self.places(S)


class _Whole(_Cache):
    def append(self, k_new, v_new, lengths):
        super().append(k_new, v_new, lengths)
        return self.k, self.v, self.places(self.k.shape[1])


class _Fresh(_Cache):
    def append(self, k_new, v_new, lengths):
        super().append(k_new, v_new, lengths)
        places = np.where(np.arange(k_new.shape[1]) < lengths[:, None], np.arange(k_new.shape[1]), -1)
        return k_new.copy(), v_new.copy(), places


def _behind_the_longest(self, k_new, v_new, lengths):
    """Every row goes on where the longest row ends; the places that it leaves stay empty."""
    first = self.lengths.max()
    self.held = [*getattr(self, "held", []), *([b, s] for b, real in enumerate(lengths) for s in range(first, first + real))]
    for b, real in enumerate(lengths):
        self.k[b, first : first + real], self.v[b, first : first + real] = k_new[b, :real], v_new[b, :real]
    self.lengths = np.full(len(lengths), first + lengths.max())
    places = np.full((len(lengths), self.lengths.max()), -1)
    for b, s in self.held:
        places[b, s] = s
    S = self.lengths.max()
    return self.k[:, :S], self.v[:, :S], places


_ROWS = "Row 0 got four tokens, row 1 two. Where does the next token of each row go?"
kv_cache = Exercise(
    name="kv_cache", signature="MyCache(batch, capacity, head_dim)", lesson="07", inputs=_appends, reference=_Cache,
    drive=_drive, outputs=["k (B, S, D)", "v (B, S, D)", "k_pos (B, S)"],
    wrong=[
        Wrong("every append starts at slot 0", _wrong(start=lambda self, row, real: 0),
              "Append twice and print self.k. Are the first tokens still there?"),
        Wrong("the last token overwritten", _wrong(start=lambda self, row, real: max(self.lengths[row] - 1, 0)),
              "Slots 0 to n - 1 are taken. Which is the first one that is free?"),
        Wrong("a slot left out", _wrong(start=lambda self, row, real: self.lengths[row] + 1),
              "Slots 0 to n - 1 are taken. Which is the first one that is free?"),
        Wrong("padding stored as tokens", _wrong(real=lambda self, N, lengths: np.full(len(lengths), N)),
              "Which argument says how many of the N new tokens of a row are real?"),
        Wrong("one length for all rows", _wrong(append=_behind_the_longest), _ROWS),
        Wrong("lengths replaced, not added up", _wrong(after=lambda self, real: real),
              "After a prompt of four tokens and one more, how many does the row hold?"),
        Wrong("lengths never counted", _wrong(
            start=lambda self, row, real: 0, after=lambda self, real: 0 * real, append=lambda self, k, v, lengths: (
                self.store(k, v, lengths), (self.k[:, : k.shape[1]], self.v[:, : k.shape[1]],
                np.where(np.arange(k.shape[1]) < lengths[:, None], np.arange(k.shape[1]), -1)))[1]),
              "Print self.lengths after each append."),
        Wrong("empty slots not marked", _wrong(places=lambda self, S: np.tile(np.arange(S), (len(self.lengths), 1))),
              "What tells a query that a shorter row has nothing in its last slots?"),
        Wrong("the caller's arrays kept", _Aliased,
              "The caller uses its arrays again after append. Which of your arrays share memory with them?"),
        Wrong("all slots handed back, the free ones too", _Whole, "S is the longest row's number of tokens, not the capacity."),
        Wrong("only the new tokens handed back", _Fresh, "A query looks at all keys so far."),
        Wrong("keys stored as values", _wrong(store=lambda self, k, v, lengths: _Cache.store(self, k, k, lengths)),
              "Compare your v with what was given as v_new."),
    ],
)  # fmt: skip

# --- a window that rolls ------------------------------------------------------------------------------------------


def _windows(rng):
    """Nothing to evict; one token; several at once; more new ones than the window; no first tokens."""
    sizes = [([0, 1], 2, 1, 4), ([0, 1, 5, 6, 7], 1, 2, 3), ([0, 4, 5, 6, 7], 3, 1, 4), ([0, 1, 2, 3], 7, 2, 3),
             ([3, 4, 5], 2, 0, 3)]
    return [(rng.standard_normal((len(held), 3)), np.array(held), rng.standard_normal((N, 3)), first, window)
            for held, N, first, window in sizes]


def _rolling(keep=lambda pos, first, window: (pos < first) | (pos > pos[-1] - window), given=lambda pos: pos):
    """Another rule for what stays, or other positions handed back."""

    def fn(k, k_pos, k_new, first, window):
        pos = np.concatenate([k_pos, k_pos[-1] + 1 + np.arange(len(k_new))])
        stay = keep(pos, first, window)
        return np.concatenate([k, k_new])[stay], given(pos[stay])

    return fn


def _count(pos):
    return np.arange(len(pos))


def _ring(k, k_pos, k_new, first, window):
    """The slots are a ring that the first tokens are part of."""
    total = first + window
    pos = np.concatenate([k_pos, k_pos[-1] + 1 + np.arange(len(k_new))])
    all_k = np.concatenate([k, k_new])
    slots: dict[int, int] = {}
    for n, p in enumerate(pos):
        slots[int(p) % total] = n
    chosen = [slots[slot] for slot in sorted(slots)]
    return all_k[chosen], pos[chosen]


def _one_goes(pos, first, window):
    stay = np.ones(len(pos), dtype=bool)
    stay[first] = len(pos) <= first + window
    return stay


_EDGE = "Count the kept positions behind the first ones: how many, beside `window`?"
rolling_cache = Exercise(
    name="rolling_cache", signature="rolling_cache(k, k_pos, k_new, first, window)", lesson="07", inputs=_windows,
    reference=_rolling(), outputs=["k (S, D)", "k_pos (S)"],
    wrong=[
        Wrong("first tokens evicted", _rolling(lambda pos, first, window: pos > pos[-1] - window),
              "Which token is the oldest of all, and may it go?"),
        Wrong("first tokens evicted, as many kept", _rolling(lambda pos, first, window: _count(pos) >= len(pos) - first - window),
              "Which token is the oldest of all, and may it go?"),
        Wrong("one key too many", _rolling(lambda pos, first, window: (pos < first) | (pos >= pos[-1] - window)), _EDGE),
        Wrong("one key too few", _rolling(lambda pos, first, window: (pos < first) | (pos > pos[-1] - window + 1)), _EDGE),
        Wrong("first tokens counted in the window",
              _rolling(lambda pos, first, window: (pos < first) | (pos > pos[-1] - window + first)), _EDGE),
        Wrong("nothing evicted", _rolling(lambda pos, first, window: pos >= 0), "How large does k grow in a long text?"),
        Wrong("the newest evicted", _rolling(lambda pos, first, window: _count(pos) < first + window),
              "Which tokens are the latest ones: those at the front of the array or at its end?"),
        Wrong("one evicted, whatever came", _rolling(_one_goes), "Three tokens come at once: how many have to go?"),
        Wrong("positions counted inside the cache", _rolling(given=_count),
              "The keys are right. k_pos says where a token stands in the text: is there a gap after the first ones?"),
        Wrong("a ring that writes over the first tokens", _ring, "Which slots may a new token take, and which never?"),
    ],
)  # fmt: skip

# --- bytes --------------------------------------------------------------------------------------------------------


def _users(memory, parameters, layers, kv_heads, head_dim, length):
    return max(0, (memory - 2 * parameters) // (4 * layers * kv_heads * head_dim * length))


def _counted(cache=lambda L, G, D, length: 4 * L * G * D * length, weights=2, least=0, round_=lambda a, b: a // b):
    """How many caches fit beside the weights, with one of these counted otherwise."""
    return lambda memory, parameters, layers, kv_heads, head_dim, length: max(
        least, round_(memory - weights * parameters, cache(layers, kv_heads, head_dim, length)))  # fmt: skip


users_that_fit = Exercise(
    name="users_that_fit", signature="users_that_fit(memory, parameters, layers, kv_heads, head_dim, length)", lesson="07",
    reference=_users, outputs=["users"],
    inputs=lambda rng: [(80 * 10**9, 8_030_261_248, 32, 8, 128, 8_192), (2 * 10**9, 134_515_008, 30, 3, 64, 1_700),
                        (15 * 10**9, 8_030_261_248, 32, 8, 128, 500), (37_000, 1_300, 3, 2, 5, 11)],
    wrong=[
        Wrong("values not counted", _counted(lambda L, G, D, length: 2 * L * G * D * length),
              "What is kept of a token beside its key?"),
        Wrong("one layer's cache", _counted(lambda L, G, D, length: 4 * G * D * length),
              "How many caches has a model of L layers?"),
        Wrong("one head's cache", _counted(lambda L, G, D, length: 4 * L * D * length), "Which argument is not used?"),
        Wrong("one token's cache", _counted(lambda L, G, D, length: 4 * L * G * D), "Which argument is not used?"),
        Wrong("numbers of four bytes in the cache", _counted(lambda L, G, D, length: 8 * L * G * D * length),
              "How many bytes has a number in bfloat16?"),
        Wrong("a byte for each weight", _counted(weights=1), "How many bytes has a weight in bfloat16?"),
        Wrong("four bytes for each weight", _counted(weights=4), "How many bytes has a weight in bfloat16?"),
        Wrong("weights not counted", _counted(weights=0), "What else lies in the memory beside the caches?"),
        Wrong("weights for every user", lambda memory, parameters, layers, kv_heads, head_dim, length: memory // (
            2 * parameters + 4 * layers * kv_heads * head_dim * length), "Do two users need two copies of the weights?"),
        Wrong("fewer users than none", _counted(least=-(10**9)), "What if the weights alone do not fit?"),
        Wrong("rounded up", _counted(round_=lambda a, b: -(-a // b)), "Does the last of your users fit whole?"),
        Wrong("not whole users", _counted(round_=lambda a, b: a / b), "Does the last of your users fit whole?"),
    ],
)  # fmt: skip
