"""The numbers that make a Llama, and what they cost.

    E  dim         width of a token's row             L  layers
    F  hidden      width inside the feed-forward      H  heads        query heads
    D  head_dim    channels of one head               G  kv_heads     heads of keys and values
    V  vocab       tokens that exist

Every weight is written for `x @ W`, so W is (E_in, E_out). Llama 3.1: arXiv:2407.21783, Table 3.
"""
from dataclasses import dataclass

import numpy as np

from ..core.errors import OptionError, ShapeError, WeightsError
from ..core.rope import Llama3Scaling
from ..core.shapes import number


@dataclass(frozen=True)
class LlamaConfig:
    """The sizes and constants of one Llama.

    `rope_layout` says which channels RoPE pairs: "half" in Hugging Face checkpoints, "interleaved" in GGUF files, whose
    query and key weights were permuted for it. A model runs in the layout of the file that it came from.

    Examples
    --------
    >>> from minattn.models import LlamaConfig
    >>> LlamaConfig.llama_3_1_8b().n_parameters
    8030261248
    >>> LlamaConfig.llama_3_1_8b().kv_bytes(1, "bfloat16")
    131072
    """

    layers: int
    dim: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Scaling | None = None
    rope_layout: str = "half"
    norm_eps: float = 1e-5
    tied: bool = False  # the head is the embedding, transposed

    def __post_init__(self):
        for name in ("layers", "dim", "hidden", "heads", "kv_heads", "head_dim", "vocab", "context"):
            size = getattr(self, name)
            if not isinstance(size, int | np.integer) or size < 1:
                raise OptionError(f"{name} = {size!r}; it must be a whole number of at least 1")
        if self.heads % self.kv_heads:
            raise ShapeError(f"H = {self.heads} query heads do not divide into G = {self.kv_heads} KV heads")
        if self.head_dim % 2:
            raise ShapeError(f"D = {self.head_dim}; RoPE rotates pairs of channels, so D must be even")
        if number("rope_theta", self.rope_theta) <= 0 or number("norm_eps", self.norm_eps) < 0:
            raise OptionError(f"rope_theta = {self.rope_theta} must be above 0, and norm_eps = {self.norm_eps} not below 0")
        if self.rope_layout not in ("half", "interleaved"):
            raise OptionError(f'rope_layout = {self.rope_layout!r}; it must be "half" or "interleaved"')

    @classmethod
    def llama_3_1_8b(cls):
        """Llama 3.1 8B, layout of the Hugging Face checkpoint."""
        return cls(32, 4096, 14336, 32, 8, 128, 128_256, 131_072, 500_000.0, Llama3Scaling())

    @classmethod
    def llama_3_1_70b(cls):
        """Llama 3.1 70B, layout of the Hugging Face checkpoint."""
        return cls(80, 8192, 28672, 64, 8, 128, 128_256, 131_072, 500_000.0, Llama3Scaling())

    @classmethod
    def llama_3_1_405b(cls):
        """Llama 3.1 405B, layout of the Hugging Face checkpoint."""
        return cls(126, 16384, 53248, 128, 8, 128, 128_256, 131_072, 500_000.0, Llama3Scaling())

    @classmethod
    def smollm2(cls):
        """SmolLM2-135M as `models.load("smollm2")` reads it: from a GGUF file, so with interleaved RoPE."""
        return cls(30, 576, 1536, 9, 3, 64, 49_152, 8_192, 100_000.0, rope_layout="interleaved", tied=True)

    def shapes(self):
        """The shape of every weight by name; those of layer 7 are called "layers.7.w_q" and so on."""
        return dict(self._each_shape())

    def _each_shape(self):
        layer = {
            "norm_attention": (self.dim,),
            "w_q": (self.dim, self.heads * self.head_dim),
            "w_k": (self.dim, self.kv_heads * self.head_dim),
            "w_v": (self.dim, self.kv_heads * self.head_dim),
            "w_o": (self.heads * self.head_dim, self.dim),
            "norm_ffn": (self.dim,),
            "w_gate": (self.dim, self.hidden),
            "w_up": (self.dim, self.hidden),
            "w_down": (self.hidden, self.dim),
        }
        yield "embedding", (self.vocab, self.dim)
        for n in range(self.layers):
            for part, shape in layer.items():
                yield f"layers.{n}.{part}", shape
        yield "norm", (self.dim,)
        if not self.tied:
            yield "head", (self.dim, self.vocab)

    def parameters(self):
        """How many parameters each part has, summed over the layers: {"embedding": ..., "w_q": ..., ...}."""
        counts: dict[str, int] = {}
        for name, shape in self.shapes().items():
            part = name.rsplit(".", 1)[-1]
            counts[part] = counts.get(part, 0) + int(np.prod(shape, dtype=np.int64))
        return counts

    @property
    def n_parameters(self):
        """All of `parameters()` together."""
        return sum(self.parameters().values())

    def kv_bytes(self, length, dtype=np.float32, batch=1):
        """Bytes that the keys and values of `length` tokens take in a cache: 2 L G D of them a token.

        dtype is a NumPy type, or the name of one, "bfloat16" included.
        """
        try:
            itemsize = 2 if str(dtype) == "bfloat16" else np.dtype(dtype).itemsize
        except TypeError as error:
            raise OptionError(f'dtype = {dtype!r} is no type of number; say np.float32, "float16" or "bfloat16"') from error
        return 2 * self.layers * self.kv_heads * self.head_dim * int(length) * int(batch) * itemsize

    def check(self, found, *, source="the weights", file_name=None):
        """Raise WeightsError unless `found` (name to shape) is what `shapes()` asks for.

        file_name : function, optional
            What the source calls the weight that is ours; there, every matrix is stored as (E_out, E_in).
        """
        expected = set()
        for ours, shape in self._each_shape():  # ends at the first that is missing, whatever number of layers is claimed
            name = ours
            if file_name is not None:
                name, shape = file_name(ours), shape if ours == "embedding" else shape[::-1]
            expected.add(name)
            if name not in found:
                raise WeightsError(f"{source} has no tensor {name}; a Llama of this configuration needs it, {shape}")
            if tuple(found[name]) != shape:
                raise WeightsError(f"{name} in {source} is {tuple(found[name])}; its configuration asks for {shape}")
        if extra := sorted(set(found) - expected):
            raise WeightsError(f"{source} holds what a Llama of this configuration does not have: {', '.join(extra[:5])}")
