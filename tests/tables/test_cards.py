"""The bundled cards, and the names and sizes that people write."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qlora_doctor.tables.cards import (
    CARDS,
    Card,
    UnknownCard,
    card_for_memory,
    cublas_workspace_bytes,
    find_card,
    match_device,
    parse_memory,
)

GIB = 2**30
MIB = 2**20


def test_covers_at_least_forty_five_cards_from_pascal_to_blackwell() -> None:
    assert len(CARDS) >= 45
    assert {card.compute_capability[0] for card in CARDS} >= {6, 7, 8, 9, 10, 12}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_is_plausible(card: Card) -> None:
    assert 0.88 * card.memory_bytes < card.usable_bytes <= card.memory_bytes
    assert 0 < card.context_overhead_bytes < GIB
    assert card.multiprocessors > 0
    assert card.bf16 == (card.compute_capability[0] >= 8)
    assert card.sources or (card.usable_estimated and card.context_estimated)


def test_most_of_the_common_cards_are_not_estimated() -> None:
    for name in (
        "T4",
        "RTX 3090",
        "RTX 4090",
        "RTX 5090",
        "A10G",
        "L4",
        "L40S",
        "A100 80GB",
        "H100",
        "H200",
        "B200",
    ):
        assert not find_card(name).usable_estimated, name


def test_no_two_cards_answer_to_the_same_name() -> None:
    for card in CARDS:
        for name in (card.name, *card.aliases):
            assert find_card(name) is card, name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("rtx-4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("RTX4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("1080ti", "GTX 1080 Ti"),
        ("geforce_rtx_3080_ti", "RTX 3080 Ti"),
        ("a100-80gb", "A100 80GB"),
        ("A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("a100", "A100 40GB"),
        ("h100", "H100 SXM 80GB"),
        ("h100 pcie", "H100 PCIe 80GB"),
        ("t4", "Tesla T4"),
        ("v100", "Tesla V100 16GB"),
        ("rtx 6000 ada", "RTX 6000 Ada"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("rtx 4070 laptop", "RTX 4070 Laptop"),
        ("gb10", "DGX Spark GB10"),
    ],
)
def test_finds_a_card_as_people_write_it(written: str, name: str) -> None:
    assert find_card(written).name == name


def test_an_unknown_card_names_the_closest() -> None:
    with pytest.raises(UnknownCard, match=r"'rtx 4091'.*RTX 4090") as caught:
        find_card("rtx 4091")
    assert "RTX 4090" in caught.value.closest
    with pytest.raises(UnknownCard, match="give its memory instead"):
        find_card("")


def test_a_name_of_two_different_cards_is_not_guessed() -> None:
    with pytest.raises(UnknownCard) as caught:
        find_card("RTX 6000")
    assert set(caught.value.closest) >= {"Quadro RTX 6000", "RTX 6000 Ada", "RTX PRO 6000 Blackwell"}


@pytest.mark.parametrize(
    ("driver_name", "total", "name"),
    [
        ("NVIDIA GeForce RTX 4090", 24217 * MIB, "RTX 4090"),
        ("NVIDIA A100-SXM4-40GB", 40326 * MIB, "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", 81050 * MIB, "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", 81079 * MIB, "H100 SXM 80GB"),
        ("NVIDIA H200", 143771 * MIB, "H200"),
        ("NVIDIA GeForce RTX 3060", 12044 * MIB, "RTX 3060"),
        ("NVIDIA GeForce RTX 3060", 7900 * MIB, "RTX 3060 8GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 15940 * MIB, "RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 8188 * MIB, "RTX 4060 Ti 8GB"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", 8188 * MIB, "RTX 4060 Laptop"),
        ("Tesla T4", 15102 * MIB, "Tesla T4"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97250 * MIB, "RTX PRO 6000 Blackwell"),
        ("Orin", 7620 * MIB, "Jetson Orin Nano 8GB"),
        ("Orin", 30697 * MIB, "Jetson AGX Orin 32GB"),
    ],
)
def test_matches_what_a_driver_says(driver_name: str, total: int, name: str) -> None:
    found = match_device(driver_name, total)
    assert found is not None
    assert found.name == name


def test_does_not_match_a_slice_of_a_card_or_another_card() -> None:
    assert match_device("NVIDIA A100-SXM4-40GB MIG 1g.10gb", 9856 * MIB) is None
    assert match_device("NVIDIA A100-SXM4-40GB", 9856 * MIB) is None
    assert match_device("AMD Instinct MI300X", 192 * GIB) is None


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("24GiB", 24 * GIB),
        ("24 gib", 24 * GIB),
        ("24G", 24 * GIB),
        ("24 GB", 24 * 10**9),
        ("24576MiB", 24 * GIB),
        ("11.5GiB", 23 * GIB // 2),
        ("25769803776", 24 * GIB),
        (24 * GIB, 24 * GIB),
    ],
)
def test_reads_a_memory_size(written: str | int, size: int) -> None:
    assert parse_memory(written) == size


@pytest.mark.parametrize(
    "written", ["", "24 cows", "GiB", "-3GiB", "0", 0, -1, True, "nan", "1e9", "inf GiB", "24GiB 3"]
)
def test_refuses_what_is_no_memory_size(written: str | int) -> None:
    with pytest.raises(ValueError, match="memory size"):
        parse_memory(written)


def test_a_card_known_by_its_memory_alone_uses_all_of_it() -> None:
    card = card_for_memory(parse_memory("24GiB"))
    assert (card.name, card.usable_bytes) == ("24 GiB", 24 * GIB)
    assert card.bf16
    with pytest.raises(ValueError, match="positive"):
        card_for_memory(0)


def test_the_workspace_follows_capability_and_torch() -> None:
    small, large = 8_519_680, 32 * MIB
    assert cublas_workspace_bytes((8, 6)) == cublas_workspace_bytes((7, 5)) == small
    assert cublas_workspace_bytes((9, 0)) == cublas_workspace_bytes((9, 0), (2, 6)) == large
    assert cublas_workspace_bytes((12, 0), (2, 11)) == cublas_workspace_bytes((10, 0), (2, 10)) == small
    assert cublas_workspace_bytes((12, 0), (2, 13)) == cublas_workspace_bytes((10, 0), (2, 12)) == large
    assert cublas_workspace_bytes((11, 0), (2, 13)) == small
    assert find_card("h200").cublas_workspace_bytes == large


def test_looking_up_imports_nothing_heavy() -> None:
    code = (
        "import sys; from qlora_doctor.tables.cards import find_card\n"
        "assert find_card('h100') and not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
