"""Where a Llama's parameters are, and what other sizes would cost.

    L layers   E width   F width inside the feed-forward part   H query heads   G KV heads   D width of a head   V tokens

The right count is that of the shapes of the library's arrays. arXiv:2407.21783, Table 3.
"""
from ..models.config import LlamaConfig
from .exercise import Exercise, Wrong


def _right_parameters(L, E, F, H, G, D, V, tied):
    return LlamaConfig(L, E, F, H, G, D, V, context=64, tied=tied).n_parameters


def _counted(qo=lambda E, H, G, D: 2 * E * H * D, kv=lambda E, H, G, D: 2 * E * G * D, ffn=3, norms=2, last=1, more=0, deep=True,
             ends=lambda V, E, tied: V * E * (1 if tied else 2)):  # fmt: skip
    """The count with one kind of weight counted otherwise."""
    def fn(L, E, F, H, G, D, V, tied):
        layer = qo(E, H, G, D) + kv(E, H, G, D) + ffn * E * F + norms * E + more * (H * D + 2 * G * D + 2 * E + 2 * F)
        return ends(V, E, tied) + (L if deep else 1) * layer + last * E

    return fn


_NORMS = "How many vectors of E numbers has a layer, and is there one more behind the last layer?"
_KV = "W_K makes the keys of all KV heads. How many of them are there?"
parameters = Exercise(
    name="parameters", signature="parameters(L, E, F, H, G, D, V, tied)", lesson="09", reference=_right_parameters,
    outputs=["parameters"],
    inputs=lambda rng: [(32, 4_096, 14_336, 32, 8, 128, 128_256, False), (30, 576, 1_536, 9, 3, 64, 49_152, True),
                        (5, 24, 50, 6, 2, 10, 97, False), (3, 20, 33, 4, 1, 14, 71, True)],
    wrong=[
        Wrong("tied embedding counted twice", _counted(ends=lambda V, E, tied: 2 * V * E),
              "A tied head is the embedding, transposed. How often is it stored?"),
        Wrong("always tied", _counted(ends=lambda V, E, tied: V * E), "Which argument is not used?"),
        Wrong("tied and untied exchanged", _counted(ends=lambda V, E, tied: V * E * (2 if tied else 1)),
              "A tied head is the embedding, transposed. How often is it stored?"),
        Wrong("no embedding, no head", _counted(ends=lambda V, E, tied: 0), "Where do the rows of the ids come from?"),
        Wrong("H in place of G in W_K and W_V", _counted(kv=lambda E, H, G, D: 2 * E * H * D), _KV),
        Wrong("keys without values", _counted(kv=lambda E, H, G, D: E * G * D), "What is projected beside the keys?"),
        Wrong("G in place of H in W_Q and W_O", _counted(qo=lambda E, H, G, D: 2 * E * G * D),
              "W_Q makes the queries of all query heads. How many of them are there?"),
        Wrong("W_O forgotten", _counted(qo=lambda E, H, G, D: E * H * D), "What brings the merged heads back to E numbers?"),
        Wrong("H D taken for E in W_Q and W_O", _counted(qo=lambda E, H, G, D: 2 * E * E),
              "Is H times D equal to E in every case of the check?"),
        Wrong("two matrices in the feed-forward part", _counted(ffn=2), "Gate, up, and what else?"),
        Wrong("norms forgotten", _counted(norms=0, last=0), _NORMS),
        Wrong("last norm forgotten", _counted(last=0), _NORMS),
        Wrong("one norm in a layer", _counted(norms=1), _NORMS),
        Wrong("biases counted", _counted(more=1), "Has a Llama's projection a bias?"),
        Wrong("one layer", _counted(deep=False), "Which argument is not used?"),
    ],
)  # fmt: skip


def _hidden(change=lambda D, old, new: 2 * (new - old) * D, each=3, up=True):
    """F less what the KV heads take, spread over `each` matrices."""
    return lambda E, F, D, old_G, new_G: F - (-(-change(D, old_G, new_G) // each) if up else change(D, old_G, new_G) // each)


_SPEND = "Write down both sides for one layer: what W_K and W_V gain, and what one channel of F costs."
smaller_hidden = Exercise(
    name="smaller_hidden", signature="smaller_hidden(E, F, D, old_G, new_G)", lesson="09", outputs=["F"], reference=_hidden(),
    inputs=lambda rng: [(4_096, 14_336, 128, 8, 32), (576, 1_536, 64, 3, 9), (60, 170, 10, 1, 6), (45, 130, 8, 2, 4)],
    wrong=[
        Wrong("rounded to the larger F", _hidden(up=False), "Count both models: has the new one more parameters than before?"),
        Wrong("W_K alone", _hidden(lambda D, old, new: (new - old) * D), _SPEND),
        Wrong("all new KV heads, not those that came on top", _hidden(lambda D, old, new: 2 * new * D), _SPEND),
        Wrong("two matrices in the feed-forward part", _hidden(each=2), "How many matrices have an axis F?"),
        Wrong("one matrix in the feed-forward part", _hidden(each=1), "How many matrices have an axis F?"),
        Wrong("heads counted, not their channels", _hidden(lambda D, old, new: 2 * (new - old)), "Which argument is not used?"),
        Wrong("F as it was", lambda E, F, D, old_G, new_G: F, "Count both models: has the new one more parameters than before?"),
        Wrong("F larger instead of smaller", lambda E, F, D, old_G, new_G: F + -(-2 * (new_G - old_G) * D // 3),
              "Count both models: has the new one more parameters than before?"),
    ],
)  # fmt: skip
