"""Shell scripts: words as the shell makes them, constants followed, and nothing guessed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_doctor.reading.comments import remarks_in
from qlora_doctor.reading.shell import read_script

UNKNOWN = None


def words(text: str) -> list[list[str | None]]:
    """The words of each command; None where one is not known."""
    return [[word.text if word.known else UNKNOWN for word in c.words] for c in read_script(text).commands]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run --a 1 \\\n  --b 'x y' \\\n --c \"z\\\"q\"", [["run", "--a", "1", "--b", "x y", "--c", 'z"q']]),
        ("run a# b # c", [["run", "a#", "b"]]),
        ("A=1 B=2 run $A", [["run", UNKNOWN]]),  # what stands before a command is for that command alone
        ("A=1; B=x$A\nrun $B", [["run", "x1"]]),
        ('A="--x 1 --y"\nrun $A "$A"', [["run", "--x", "1", "--y", "--x 1 --y"]]),
        ('A=(--x "1 2")\nA+=(--y)\nrun "${A[@]}" z', [["run", "--x", "1 2", "--y", "z"]]),
        ("A=/data\nA+=/x\nrun $A ${A}/y", [["run", "/data/x", "/data/x/y"]]),
        ("run ${MODEL:-x/y} ${1:-z} $1 $@", [["run", "x/y", "z", UNKNOWN, UNKNOWN]]),
        ("export A=1 B=2\nrun $A$B", [["run", "12"]]),
        ("N=8\nB=3\nrun $((N/B*2)) $(( 7 % $B ))", [["run", "4", "1"]]),
        ("run $((X+1)) $(date) `date` x$(date)", [["run", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]]),
        ("run a > out 2>&1 <in 2>/dev/null b", [["run", "a", "b"]]),
        ("run a | tee log && other; third & fourth", [["run", "a"], ["tee", "log"], ["other"], ["third"], ["fourth"]]),
        ("cat <<EOF\nrun a\nEOF\nrun b", [["cat"], ["run", "b"]]),
        ("cat <<-'E'\n\trun a\n\tE\nrun b", [["cat"], ["run", "b"]]),
        ("A=1\nif [ x ]; then A=2; run $A; fi\nrun $A", [["[", "x", "]"], ["run", "2"], ["run", UNKNOWN]]),
        ("[ x ] && A=2\nrun $A", [["[", "x", "]"], ["run", UNKNOWN]]),
        ("A=1\nfor i in 1 2; do run $A $i; A=2; done", [["run", UNKNOWN, UNKNOWN]]),
        ("A=1\nB=1\nf() { run $A $B; B=3; run $B; }\nrun $A $B",
         [["run", "1", UNKNOWN], ["run", "3"], ["run", "1", UNKNOWN]]),
        ("(A=1; run $A); run $A", [["run", "1"], ["run", UNKNOWN]]),
        ("read A\nrun $A", [["run", UNKNOWN]]),
        ("case $1 in\n a) run a ;;\n b) run b ;;\nesac", [["a"], ["run", "a"], ["b"], ["run", "b"]]),
        ("run 'never closed", [["run", "never closed"]]),
        ("run ${A", [["run", UNKNOWN]]),
        ("run $'a' a$", [["run", UNKNOWN, "a$"]]),
    ],
)  # fmt: skip
def test_words(text: str, expected: list[list[str | None]]) -> None:
    assert words(text) == expected


def test_places_are_lines_and_columns() -> None:
    text = "#!/bin/sh\nA=(\n  --x 1 # one\n)\nrun \\\n  --é 'b' \"${A[@]}\"\n"
    script = read_script(text)
    (command,) = script.commands
    assert [script.place(word.start) for word in command.words] == [(5, 1), (6, 3), (6, 7), (3, 3), (3, 7)]
    assert script.line(6) == "  --é 'b' \"${A[@]}\""
    assert [(script.place(offset)[0], comment) for offset, comment in script.comments] == [
        (1, "#!/bin/sh"),
        (3, "# one"),
    ]


def test_suppressions_in_comments(tmp_path: Path) -> None:
    path = tmp_path / "a.sh"
    path.write_text("# qlora-doctor: ignore-file[QD208] on purpose\nrun '# qlora-doctor: ignore[QD1] no comment'\n")
    assert [(remark.rules, remark.reason) for remark in remarks_in(path)] == [(("QD208",), "on purpose")]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab=$(){}[]'\"\\`;&|<>#\n -+*/1:@!", max_size=60))
def test_any_text_is_read(text: str) -> None:
    script = read_script(text)
    for command in script.commands:
        assert command.words
        for word in command.words:
            assert 0 <= word.start <= word.end <= len(text)
            assert script.place(word.start) >= (1, 1)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash to compare with")
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["A='x y'", "B=1", 'C="$A$B"', 'D=("$A" b)', "D+=(c)", "B=2", "E=${Z:-d}", "N=$((B*3-1))", "A+=z"]
        ),
        max_size=6,
    )
)
def test_what_is_known_is_what_bash_says(lines: list[str]) -> None:
    text = "unset Z\n" + "\n".join(lines) + '\nprintf "%s\\n" end $A "$B" "$C" "${D[@]}" $E $N\n'
    command = read_script(text.replace("unset Z\n", "")).commands[-1]
    if all(word.known for word in command.words):
        said = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout
        assert "".join(f"{word.text}\n" for word in command.words[2:]) == said


@pytest.mark.parametrize("character", [chr(code) for code in range(256)] + ["\u2028", "\ufeff"])
def test_every_character_is_passed_over_once(character: str) -> None:
    """A character that begins neither a word nor an operator ended no scan before."""
    for text in (character, f"a{character}b", f"A=({character}", f'"{character}', f"<<{character}", f"${{{character}"):
        read_script(text)


def test_a_space_that_is_none_to_a_shell_is_part_of_a_word() -> None:
    (command,) = read_script("python train.py\u00a0x\n").commands
    assert [word.text for word in command.words] == ["python", "train.py\u00a0x"]
