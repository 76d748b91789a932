"""benchmarks/field/checks.tsv, what the frameworks check and the rule here, against the rules and tables themselves."""

from __future__ import annotations

import csv
from pathlib import Path

from qlora_doctor.core.assets import asset_folder
from qlora_doctor.engine import load_rules
from qlora_doctor.tables.refusals import catalogue

TABLE = Path(__file__).parents[2] / "benchmarks" / "field" / "checks.tsv"
RULE_OF = {
    "trainer": "QD125",
    "quantization": "QD126",
    "freezing": "QD342",
    "kernels": "QD344",
    "optimizer": "QD809",
    "sharded-preference": "QD810",
    "distribution": "QD811",
}
"""What a refusal is about → the rule that tells it."""
ROWS = {
    "axolotl": catalogue("axolotl").rows,
    "LLaMA-Factory": catalogue("llamafactory").rows,
}


def test_every_check_has_a_rule_that_exists() -> None:
    rules = {rule.id for rule in load_rules(asset_folder("rules"))}
    with TABLE.open(encoding="utf-8") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert len(table) > 120
    for row in table:
        assert row["rule"] in rules or (row["rule"] == "-" and len(row["kind"]) > 3), row


def test_refusals_are_told_by_the_rule_that_the_table_names() -> None:
    with TABLE.open(encoding="utf-8") as file:
        named = {(row["framework"], row["kind"]): row["rule"] for row in csv.DictReader(file, delimiter="\t")}
    for framework, rows in ROWS.items():
        for row in rows:
            rule = named.get((framework, row.kind))
            assert rule in (None, RULE_OF[row.about]), (row.kind, rule, row.about)
    kinds = {(framework, row.kind) for framework, rows in ROWS.items() for row in rows}
    of_tables = {key for key, rule in named.items() if rule in RULE_OF.values() and key[0] in ROWS and key[1] != "-"}
    assert of_tables <= kinds, of_tables - kinds
