"""Small pages for the engine's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qlora_doctor.engine import Rule
from qlora_doctor.engine.page import parse_page

BODY = """
## What it checks
The rank.

## Why it matters
It matters.

## How to fix
Change it.

## When to ignore
Never.

## Examples
```json fail
{"config": {"lora_r": 512}}
```
```text
Rank 512 is large.
```
```json pass
{"config": {"lora_r": 8}}
```
"""
FRONT = """id: QD199
name: large-rank
title: The rank is moderate
severity: warning
confidence: high
profile: recommended
since: 0.1.0
tags: [adapter]
symptoms: ["rank is too large"]
when: config.lora_r > 256
message: "Rank {{ config.lora_r }} is large."
locate: /lora/r
evidence: [config.lora_r]
"""


def page(front: str = FRONT, body: str = BODY, name: str = "QD199-large-rank.md") -> Rule:
    return parse_page(f"---\n{front}---\n{body}", Path(name))


def front(**fields: Any) -> str:
    """The front matter with some lines replaced; None leaves a line out."""
    lines = {line.partition(":")[0]: line for line in FRONT.splitlines()}
    for key, value in fields.items():
        lines.pop(key, None)
        if value is not None:
            lines[key] = f"{key}: {value}"
    return "\n".join(lines.values()) + "\n"
