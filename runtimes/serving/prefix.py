"""A cache of prefixes: sequences that begin alike share blocks instead of computing them again.

A full block is known by the digest of its tokens chained to the digest of what stands before it, so equal digests mean equal
beginnings; SHA-256, because a tenant who could construct a collision would read another's answer out of its cache. A block
that nobody uses keeps its content until the room is needed: the one unused for longest goes first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from .kv import BlockTable, KVBlocks


class PrefixBlocks(KVBlocks):
    """Blocks with owners counted, found by content."""

    def __init__(self, num_blocks: int, *, block_tokens: int) -> None:
        super().__init__(num_blocks, block_tokens=block_tokens)
        self._num_owners = [0] * num_blocks
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # without owner, content kept; longest unused first
        self.num_asked_tokens = 0
        self.num_hit_tokens = 0

    @property
    def num_free(self) -> int:
        return len(self._free) + len(self._idle)

    def open(
        self, tokens: Sequence[int], *, room: int, spare: int = 0, align: int = 1, salt: bytes = b""
    ) -> BlockTable | None:
        found, chain = self._find(tokens, align=align, salt=salt)
        num_idle = sum(block in self._idle for block in found)
        fresh = self.blocks_for(room) - len(found)
        if fresh + num_idle + spare > self.num_free:
            return None
        for block in found:
            self._num_owners[block] += 1
            self._idle.pop(block, None)
        table = BlockTable(found + [self._take() for _ in range(fresh)], num_cached=len(found) * self.block_tokens)
        table.num_sealed, table.chain = len(found), chain
        self.num_asked_tokens += len(tokens)
        self.num_hit_tokens += table.num_cached
        return table

    def seal(self, table: BlockTable, tokens: Sequence[int], num_computed: int) -> None:
        for at in range(table.num_sealed, num_computed // self.block_tokens):
            table.chain = self._digest(table.chain, tokens, at)
            table.num_sealed = at + 1
            if table.chain not in self._block_of:  # two sequences may have computed the same at the same time
                self._block_of[table.chain] = table.ids[at]
                self._digest_of[table.ids[at]] = table.chain

    def _find(self, tokens: Sequence[int], *, align: int, salt: bytes) -> tuple[list[int], bytes]:
        """The blocks that hold the beginning of `tokens`, and its digest. At least one token is left to compute."""
        chains = [hashlib.sha256(salt).digest()]
        found: list[int] = []
        for at in range((len(tokens) - 1) // self.block_tokens):
            chain = self._digest(chains[-1], tokens, at)
            if (block := self._block_of.get(chain)) is None:
                break
            found.append(block)
            chains.append(chain)
        while len(found) * self.block_tokens % align:
            found.pop()
        return found, chains[len(found)]

    def _digest(self, chain: bytes, tokens: Sequence[int], at: int) -> bytes:
        block = tokens[at * self.block_tokens : (at + 1) * self.block_tokens]
        return hashlib.sha256(chain + array("q", block).tobytes()).digest()

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        self._num_owners[block] = 1
        return block

    def _give_back(self, block: int) -> None:
        if not self._num_owners[block]:
            raise RuntimeError(f"block {block} is released twice")  # our bug
        self._num_owners[block] -= 1
        if self._num_owners[block]:
            return
        if block in self._digest_of:
            self._idle[block] = None
        else:
            self._free.append(block)
