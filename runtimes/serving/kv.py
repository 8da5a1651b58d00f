"""Who owns which part of the KV cache: blocks of `block_tokens` tokens, which a sequence holds in any order.

Bookkeeping only; keys and values themselves lie in the generated `KVCache`. `prefix.py` shares blocks between sequences
that begin alike.
"""

from __future__ import annotations

from collections.abc import Sequence


class BlockTable:
    """The blocks of one sequence, in order. After `release` nobody changes `ids` any more."""

    __slots__ = ("chain", "ids", "num_cached", "num_sealed")

    def __init__(self, ids: list[int], *, num_cached: int = 0) -> None:
        self.ids = ids
        self.num_cached = num_cached  # leading tokens that were computed for somebody else
        self.num_sealed = 0  # leading blocks that are known by their content
        self.chain = b""  # digest of everything up to the last sealed block


class KVBlocks:
    """`num_blocks` blocks; each belongs to one sequence or to nobody."""

    def __init__(self, num_blocks: int, *, block_tokens: int) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._free = list(range(num_blocks - 1, -1, -1))  # the last one is given out next
        self._is_used = bytearray(num_blocks)

    @property
    def num_free(self) -> int:
        """Blocks that could be given out now."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_tokens)

    def open(
        self, tokens: Sequence[int], *, room: int, spare: int = 0, align: int = 1, salt: bytes = b""
    ) -> BlockTable | None:
        """A table with room for `room` tokens, or None unless that leaves `spare` blocks.

        Args:
            tokens: what the sequence begins with; a cache of prefixes looks for them.
            align: cached tokens are taken in multiples of this only.
            salt: sequences share blocks only with those of the same salt.
        """
        needed = self.blocks_for(room)
        if needed + spare > self.num_free:
            return None
        return BlockTable([self._take() for _ in range(needed)])

    def grow(self, table: BlockTable) -> bool:
        """One block more; False if there is none."""
        if not self.num_free:
            return False
        table.ids.append(self._take())
        return True

    def seal(self, table: BlockTable, tokens: Sequence[int], num_computed: int) -> None:
        """The first `num_computed` tokens of a sequence are in its blocks now. Of use to a cache of prefixes only."""

    def release(self, table: BlockTable) -> None:
        """The sequence needs its blocks no more. The list itself stays as it is: a step in progress may read it."""
        for block in reversed(table.ids):
            self._give_back(block)

    def _take(self) -> int:
        block = self._free.pop()
        self._is_used[block] = True
        return block

    def _give_back(self, block: int) -> None:
        if not self._is_used[block]:
            raise RuntimeError(f"block {block} is released twice")  # our bug
        self._is_used[block] = False
        self._free.append(block)
