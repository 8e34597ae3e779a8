"""How trees lie in the flat arrays that `fingerpost.training.trees.kernel` goes through; costs nothing to import."""

# How a split asks: `x <= t`, where NaN goes right; `not x > t`, where NaN goes left; is the category in a set?
LEFT_IF, LEFT_UNLESS, IN_SET = 0, 1, 2
MAX_LEAVES = 64
# Multiplied by it, each power of two has other topmost six bits (Leiserson et al., 1998): numbers the single bits.
DE_BRUIJN = 0x03F79D71B4CB0A89
TOP_SIX = 58
_WORD = 2**64 - 1


def slot_of(leaf: int) -> int:
    """Where the kernel looks up the value of a leaf."""
    return ((1 << leaf) * DE_BRUIJN & _WORD) >> TOP_SIX
