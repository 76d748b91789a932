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


def rounded(sizes: list[int]) -> list[int]:
    """:func:`round_size` of each: a step asks for few sizes, many times."""
    known = {size: round_size(size) for size in set(sizes)}
    return [known[size] for size in sizes]


def segment_size(size: int) -> int:
    """Bytes taken from the driver for a rounded request that no free block can serve."""
    if size <= SMALL_LIMIT:
        return SMALL_SEGMENT
    if size < MIN_LARGE_REQUEST:
        return LARGE_SEGMENT
    return -(-size // LARGE_ROUNDING) * LARGE_ROUNDING


ADDRESS_BITS = 50
"""Bits of a free block's rank that hold its address; its size stands above them."""
_ADDRESS = (1 << ADDRESS_BITS) - 1
_RANGE = 1 << 42
"""Bytes between the address ranges of expandable pools: more than any of them grows to."""

Block = tuple[int, int, "Pool"]
"""A stretch of a segment that is in use: its address, its bytes and whose it is."""


class Pool:
    """The free blocks of one size class; none are adjacent.

    Replays spend their time here, so a free block is two numbers and no object: ``starts`` has its size by where it
    begins, ``ends`` where it begins by where it ends, and ``order`` is sorted as the allocator's ``std::set`` is, by
    size, then address, in one number for both.
    """

    __slots__ = ("ends", "order", "segments", "small", "split_from", "starts", "top")

    def __init__(self, small: bool, stream: int, expandable: bool) -> None:
        self.small = small
        self.split_from = MIN_BLOCK if small or expandable else SMALL_LIMIT + 1
        self.order: list[int] = []
        self.starts: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        self.segments: dict[int, int] = {}  # bytes by address, of those that are of one size
        self.top = _RANGE * (2 * stream + 2 - small) if expandable else -1  # where the expandable segment ends

    def insert(self, address: int, size: int) -> None:
        self.starts[address] = size
        self.ends[address + size] = address
        insort(self.order, size << ADDRESS_BITS | address)

    def remove(self, address: int) -> int:
        """A free block is free no longer; returns its size."""
        size = self.starts.pop(address)
        del self.ends[address + size]
        del self.order[bisect_left(self.order, size << ADDRESS_BITS | address)]
        return size


class CachingAllocator:
    """``malloc`` and ``free`` as PyTorch decides them.

    ``allocated`` and ``reserved`` are bytes now, ``peak_allocated`` and ``peak_reserved`` bytes since
    :meth:`reset_peaks`. With ``expandable_segments`` each pool is one range that grows in pages of 2 MiB (small) or
    20 MiB (large), and any remainder of at least 512 bytes is split off.
    """

    def __init__(self, expandable_segments: bool = False) -> None:
        self.expandable = expandable_segments
        self._small, self._large = (Pool(small, 0, expandable_segments) for small in (True, False))
        self._others: dict[tuple[bool, int], Pool] = {}
        self.allocated = 0
        self.reserved = 0
        self.peak_allocated = 0
        self.peak_reserved = 0
        self._next_address = MIN_BLOCK

    def malloc(self, size: int, stream: int = 0) -> Block:
        """The block that serves a request of ``size`` bytes (0 bytes take no block in PyTorch: do not ask).

        Each stream has pools of its own: what one of them holds free serves no other.
        """
        return self.malloc_rounded(round_size(size), stream)

    def malloc_rounded(self, size: int, stream: int = 0) -> Block:
        """The same for a size that :func:`round_size` has given."""
        pool = self._small if size <= SMALL_LIMIT else self._large
        if stream:
            kind = pool.small, stream
            pool = self._others.get(kind) or self._others.setdefault(kind, Pool(*kind, self.expandable))
        order, starts, ends = pool.order, pool.starts, pool.ends
        place = bisect_left(order, size << ADDRESS_BITS)
        if place < len(order):  # the smallest that is large enough
            rank = order[place]
            if self.expandable and place + 1 < len(order) and (rank & _ADDRESS) + (rank >> ADDRESS_BITS) == pool.top:
                # The end of an expandable segment counts as large as it can grow, so any other fit comes first.
                place += 1
                rank = order[place]
            del order[place]
            address, whole = rank & _ADDRESS, rank >> ADDRESS_BITS
            del starts[address]
        else:
            address, whole = self._grown(pool, size) if self.expandable else self._new_segment(pool, size)
        rest = whole - size
        if rest >= pool.split_from:
            cut = address + size
            starts[cut] = rest
            ends[address + whole] = cut
            insort(order, rest << ADDRESS_BITS | cut)
        else:
            ends.pop(address + whole, None)
            size = whole
        self.allocated += size
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated
        return address, size, pool

    def free(self, block: Block) -> None:
        """Give a block back; it melts into its free neighbours."""
        address, size, pool = block
        order, starts, ends = pool.order, pool.starts, pool.ends
        self.allocated -= size
        end = address + size
        before = ends.pop(address, None)
        if before is not None:
            del order[bisect_left(order, (address - before) << ADDRESS_BITS | before)]
            address = before
        after = starts.pop(end, None)
        if after is not None:
            del order[bisect_left(order, after << ADDRESS_BITS | end)]
            end += after
        size = end - address
        starts[address] = size
        ends[end] = address
        insort(order, size << ADDRESS_BITS | address)

    def empty_cache(self) -> None:
        """Give whole free segments back to the driver (``torch.cuda.empty_cache``)."""
        for pool in (self._small, self._large, *self._others.values()):
            for address, size in pool.segments.items() & pool.starts.items():
                pool.remove(address)
                del pool.segments[address]
                self.reserved -= size
            if pool.top in pool.ends:
                self._unmap(pool, pool.ends[pool.top])

    def reset_peaks(self) -> None:
        """Forget the peaks so far (``torch.cuda.reset_peak_memory_stats``)."""
        self.peak_allocated = self.allocated
        self.peak_reserved = self.reserved

    def _new_segment(self, pool: Pool, size: int) -> tuple[int, int]:
        """Where it begins, and its bytes; a gap keeps it from melting into the segment before."""
        bytes_ = segment_size(size)
        address = self._next_address
        self._next_address += bytes_ + MIN_BLOCK
        pool.segments[address] = bytes_
        self._reserve(bytes_)
        return address, bytes_

    def _grown(self, pool: Pool, size: int) -> tuple[int, int]:
        """A block at the end of the pool's segment, which grows by as many pages as are missing."""
        page = SMALL_SEGMENT if pool.small else LARGE_SEGMENT
        address = pool.ends.get(pool.top, pool.top)
        there = pool.remove(address) if address < pool.top else 0
        missing = -(-(size - there) // page) * page
        pool.top += missing
        self._reserve(missing)
        return address, there + missing

    def _unmap(self, pool: Pool, address: int) -> None:
        """Give the pages of the free end of an expandable segment back."""
        page = SMALL_SEGMENT if pool.small else LARGE_SEGMENT
        size = pool.starts[address]
        surplus = size // page * page
        if surplus:
            pool.remove(address)
            self.reserved -= surplus
            pool.top -= surplus
            if size > surplus:
                pool.insert(address, size - surplus)

    def _reserve(self, size: int) -> None:
        self.reserved += size
        if self.reserved > self.peak_reserved:
            self.peak_reserved = self.reserved
