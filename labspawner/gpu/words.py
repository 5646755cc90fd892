"""What a student reads when the slice is full. Pure."""

from __future__ import annotations

from labspawner.gpu.region import Refusal
from labspawner.sentences import Sentence, plain
from labspawner.units import human_bytes

_OTHERS = Sentence("Restart the kernels of other notebooks: each keeps its part of the slice until it ends.")
_SMALLER = Sentence("Use a smaller batch or a smaller model.")
_OWN = {
    "PyTorch": Sentence("PyTorch keeps what it freed: torch.cuda.empty_cache() gives it back."),
    "JAX": Sentence("JAX takes most of the slice at once: before its import, set XLA_PYTHON_CLIENT_PREALLOCATE=false."),
    "TensorFlow": Sentence(
        "TensorFlow takes the whole slice at once: before its import, set TF_FORCE_GPU_ALLOW_GROWTH=true."
    ),
    "CuPy": Sentence("CuPy keeps what it freed: cupy.get_default_memory_pool().free_all_blocks() gives it back."),
}


def is_full(refusal: Refusal) -> Sentence:
    """What happened, in one sentence."""
    return Sentence(
        "Your slice ({slice}) is full: {program} asked for {asked}, {left} left.",
        slice=human_bytes(refusal.limit_bytes),
        program=program(refusal),
        asked=human_bytes(refusal.asked_bytes),
        left=human_bytes(max(0, refusal.limit_bytes - refusal.used_bytes)),
    )


def hints(refusal: Refusal) -> tuple[Sentence, ...]:
    """What the student can do, the likeliest help first."""
    if refusal.asked_bytes > refusal.limit_bytes:
        return (_SMALLER, Sentence("Or pick a profile with a larger slice."))
    own = _OWN.get(refusal.who)
    return ((own,) if own else ()) + (_OTHERS, _SMALLER)


def program(refusal: Refusal) -> Sentence:
    """Who asked, as students call it: the library, else the command."""
    name = refusal.who or refusal.command
    return plain(name) if name else Sentence("a program")
