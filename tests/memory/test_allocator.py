"""The allocator's decisions, worked out by hand from its rules."""

from __future__ import annotations

import pytest

from qlora_doctor.memory.allocator import CachingAllocator, round_size, segment_size

KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(("asked", "given"), [(1, 512), (512, 512), (513, 1024), (MIB, MIB)])
def test_requests_are_rounded_to_512_bytes(asked: int, given: int) -> None:
    assert round_size(asked) == given


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
    ],
)
def test_segments(size: int, segment: int) -> None:
    assert segment_size(size) == segment


def test_a_small_remainder_of_a_large_block_is_not_split_off() -> None:
    allocator = CachingAllocator()
    allocator.malloc(21 * MIB + 512 * KIB)  # its segment has 22 MiB, the 512 KiB stay with the block
    assert (allocator.allocated, allocator.reserved) == (22 * MIB, 22 * MIB)


def test_a_large_remainder_is_split_off_and_used() -> None:
    allocator = CachingAllocator()
    allocator.malloc(8 * MIB)
    allocator.malloc(8 * MIB)
    assert (allocator.allocated, allocator.reserved) == (16 * MIB, 20 * MIB)
    allocator.malloc(4 * MIB)
    assert (allocator.allocated, allocator.reserved) == (20 * MIB, 20 * MIB)


def test_small_and_large_requests_do_not_share_segments() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(30 * MIB)
    allocator.free(block)
    allocator.malloc(4 * KIB)
    assert allocator.reserved == 32 * MIB


def test_the_smallest_block_that_fits_is_taken() -> None:
    allocator = CachingAllocator()
    large, small = allocator.malloc(64 * MIB), allocator.malloc(32 * MIB)
    allocator.free(large)
    allocator.free(small)
    assert allocator.malloc(31 * MIB)[0] == small[0]
    assert allocator.allocated == 32 * MIB  # 1 MiB is left over, which is not more than 1 MiB


def test_freed_neighbours_melt_together() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(5 * MIB) for _ in range(4)]
    for block in (blocks[0], blocks[2], blocks[1], blocks[3]):
        allocator.free(block)
    allocator.malloc(20 * MIB)
    assert allocator.reserved == 20 * MIB


def test_only_whole_free_segments_go_back() -> None:
    allocator = CachingAllocator()
    kept, gone = allocator.malloc(5 * MIB), allocator.malloc(40 * MIB)
    allocator.free(gone)
    allocator.empty_cache()
    assert allocator.reserved == 20 * MIB
    allocator.free(kept)
    allocator.empty_cache()
    assert allocator.reserved == 0


def test_peaks_are_kept_until_they_are_reset() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(40 * MIB))
    assert (allocator.peak_allocated, allocator.allocated) == (40 * MIB, 0)
    allocator.reset_peaks()
    assert (allocator.peak_allocated, allocator.peak_reserved) == (0, 40 * MIB)


def test_expandable_segments_grow_in_pages_and_split_everything() -> None:
    allocator = CachingAllocator(expandable_segments=True)
    allocator.malloc(21 * MIB + 512 * KIB)
    assert (allocator.allocated, allocator.reserved) == (21 * MIB + 512 * KIB, 40 * MIB)
    allocator.malloc(18 * MIB)
    assert allocator.reserved == 40 * MIB
    allocator.malloc(18 * MIB)
    assert allocator.reserved == 60 * MIB


def test_expandable_segments_leave_no_holes_where_plain_ones_do() -> None:
    reserved = {}
    for expandable in (False, True):
        allocator = CachingAllocator(expandable)
        for size in range(10, 60, 2):
            allocator.free(allocator.malloc(size * MIB))
        reserved[expandable] = allocator.reserved
    assert reserved[False] == sum(range(10, 60, 2)) * MIB
    assert reserved[True] == 60 * MIB


def test_allocated_never_exceeds_reserved() -> None:
    allocator = CachingAllocator()
    alive = []
    for step in range(2000):
        alive.append(allocator.malloc((step * 7919 * 512) % (24 * MIB) + 1))
        if step % 3:
            allocator.free(alive.pop((step * 31) % len(alive)))
        assert 0 <= allocator.allocated <= allocator.reserved
    for block in alive:
        allocator.free(block)
    assert allocator.allocated == 0
    allocator.empty_cache()
    assert allocator.reserved == 0
