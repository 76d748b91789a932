"""A replay of PyTorch's caching allocator for one device and one stream.

``torch.cuda.max_memory_allocated`` counts whole blocks and ``max_memory_reserved`` whole segments, so neither can be
had by adding tensor sizes up: both need the allocator's own decisions. Only what a training step exercises is
modelled: one stream, no CUDA graphs, no garbage-collection threshold, no ``max_split_size_mb``, no
``roundup_power2_divisions`` (each is off by default).

Source of every rule and constant: ``c10/cuda/CUDACachingAllocator.cpp`` and ``c10/core/AllocatorConfig.h`` of PyTorch
2.6 to 2.13 (``round_size``, ``get_allocation_size``, ``get_free_block``, ``should_split``, ``free_block``,
``try_merge_blocks``, ``try_allocate_expandable_block``).
"""

from __future__ import annotations

from bisect import bisect_left, insort

MIN_BLOCK = 512
"""Bytes every request is rounded up to a multiple of (``kMinBlockSize``)."""
SMALL_LIMIT = 1 << 20
"""Bytes up to which a request is served from the pool of small blocks (``kSmallSize``)."""
SMALL_SEGMENT = 2 << 20
"""Bytes of a segment of the small pool (``kSmallBuffer``)."""
LARGE_SEGMENT = 20 << 20
"""Bytes of a segment for a request below :data:`MIN_LARGE_REQUEST` (``kLargeBuffer``)."""
MIN_LARGE_REQUEST = 10 << 20
"""Bytes from which a request gets a segment of its own size (``kMinLargeAlloc``)."""
LARGE_ROUNDING = 2 << 20
"""Bytes that such a segment is rounded up to a multiple of (``kRoundLarge``)."""


def round_size(size: int) -> int:
    """Bytes of the block that a request of ``size`` bytes asks for."""
    return max(MIN_BLOCK, -(-size // MIN_BLOCK) * MIN_BLOCK)


def segment_size(size: int) -> int:
    """Bytes taken from the driver for a rounded request that no free block can serve."""
    if size <= SMALL_LIMIT:
        return SMALL_SEGMENT
    if size < MIN_LARGE_REQUEST:
        return LARGE_SEGMENT
    return -(-size // LARGE_ROUNDING) * LARGE_ROUNDING


class Block:
    """A stretch of a segment; neighbours are linked, free ones are never adjacent."""

    __slots__ = ("address", "free", "next", "pool", "previous", "size")

    def __init__(self, address: int, size: int, pool: Pool) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.previous: Block | None = None
        self.next: Block | None = None
        self.free = False


class Pool:
    """Free blocks of one size class, ordered by (size, address) as the allocator's ``std::set`` is."""

    __slots__ = ("order", "small", "stream", "tail")

    def __init__(self, small: bool, stream: int = 0) -> None:
        self.small = small
        self.stream = stream
        self.order: list[tuple[int, int, Block]] = []  # no two have one address, so blocks are never compared
        self.tail: Block | None = None  # last block of the expandable segment, if there is one

    def insert(self, block: Block) -> None:
        block.free = True
        insort(self.order, (block.size, block.address, block))

    def remove(self, block: Block) -> None:
        block.free = False
        del self.order[bisect_left(self.order, (block.size, block.address))]

    def take(self, size: int) -> Block | None:
        """The smallest free block of at least ``size`` bytes, lowest address first; it is free no longer."""
        order = self.order
        place = bisect_left(order, (size,))
        if place == len(order):
            return None
        block = order[place][2]
        if block is self.tail and place + 1 < len(order):
            # The end of an expandable segment counts as large as it can grow, so any other fit comes first.
            place += 1
            block = order[place][2]
        del order[place]
        block.free = False
        return block


class CachingAllocator:
    """``malloc`` and ``free`` as PyTorch decides them.

    ``allocated`` and ``reserved`` are bytes now, ``peak_allocated`` and ``peak_reserved`` bytes since
    :meth:`reset_peaks`. With ``expandable_segments`` each pool is one range that grows in pages of 2 MiB (small) or
    20 MiB (large), and any remainder of at least 512 bytes is split off.
    """

    def __init__(self, expandable_segments: bool = False) -> None:
        self.expandable = expandable_segments
        self._pools = {(small, 0): Pool(small) for small in (True, False)}
        self.allocated = 0
        self.reserved = 0
        self.peak_allocated = 0
        self.peak_reserved = 0
        self.requested = 0
        self._next_address = 1 << 40
        self._next_expandable: dict[Pool, int] = {}

    def malloc(self, size: int, stream: int = 0) -> Block:
        """The block that serves a request of ``size`` bytes (0 bytes take no block in PyTorch: do not ask).

        Each stream has pools of its own: what one of them holds free serves no other.
        """
        return self.malloc_rounded(round_size(size), stream)

    def malloc_rounded(self, size: int, stream: int = 0) -> Block:
        """The same for a size that :func:`round_size` has given."""
        kind = size <= SMALL_LIMIT, stream
        pool = self._pools.get(kind)
        if pool is None:
            pool = self._pools[kind] = Pool(*kind)
        block = pool.take(size)
        if block is None:
            block = self._grow(pool, size) if self.expandable else self._new_segment(pool, size)
        remaining = block.size - size
        if remaining >= MIN_BLOCK if (pool.small or self.expandable) else remaining > SMALL_LIMIT:
            rest = Block(block.address + size, remaining, pool)
            rest.previous, rest.next = block, block.next
            if block.next is not None:
                block.next.previous = rest
            block.next = rest
            block.size = size
            if pool.tail is block:
                pool.tail = rest
            pool.insert(rest)
        self.allocated += block.size
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated
        return block

    def free(self, block: Block) -> None:
        """Give a block back; it melts into its free neighbours."""
        pool = block.pool
        self.allocated -= block.size
        before, after = block.previous, block.next
        if before is not None and before.free:
            pool.remove(before)
            before.size += block.size
            before.next = after
            if after is not None:
                after.previous = before
            if pool.tail is block:
                pool.tail = before
            block = before
        if after is not None and after.free:
            pool.remove(after)
            block.size += after.size
            block.next = after.next
            if after.next is not None:
                after.next.previous = block
            if pool.tail is after:
                pool.tail = block
        pool.insert(block)

    def empty_cache(self) -> None:
        """Give whole free segments back to the driver (``torch.cuda.empty_cache``)."""
        for pool in self._pools.values():
            for _, _, block in list(pool.order):
                if block.previous is None and block.next is None and block is not pool.tail:
                    pool.remove(block)
                    self.reserved -= block.size
                elif block is pool.tail:
                    self._unmap_tail(pool, block)

    def reset_peaks(self) -> None:
        """Forget the peaks so far (``torch.cuda.reset_peak_memory_stats``)."""
        self.peak_allocated = self.allocated
        self.peak_reserved = self.reserved

    def _new_segment(self, pool: Pool, size: int) -> Block:
        bytes_ = segment_size(size)
        block = Block(self._next_address, bytes_, pool)
        self._next_address += bytes_
        self._reserve(bytes_)
        return block

    def _grow(self, pool: Pool, size: int) -> Block:
        page = SMALL_SEGMENT if pool.small else LARGE_SEGMENT
        tail = pool.tail
        if tail is not None and tail.free:
            pool.remove(tail)
            block = tail
        else:
            start = (1 << (50 if pool.small else 51)) + (pool.stream << 54)
            block = Block(self._next_expandable.get(pool, start), 0, pool)
            block.previous = tail
            if tail is not None:
                tail.next = block
        missing = -(-(size - block.size) // page) * page
        block.size += missing
        self._next_expandable[pool] = block.address + block.size
        pool.tail = block
        self._reserve(missing)
        return block

    def _unmap_tail(self, pool: Pool, block: Block) -> None:
        page = SMALL_SEGMENT if pool.small else LARGE_SEGMENT
        surplus = block.size // page * page
        if not surplus:
            return
        pool.remove(block)
        self.reserved -= surplus
        block.size -= surplus
        self._next_expandable[pool] -= surplus
        if block.size:
            pool.insert(block)
            return
        pool.tail = block.previous
        if block.previous is not None:
            block.previous.next = None

    def _reserve(self, size: int) -> None:
        self.reserved += size
        if self.reserved > self.peak_reserved:
            self.peak_reserved = self.reserved
