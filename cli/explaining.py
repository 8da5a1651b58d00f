"""`llmc explain`: the catalogue of codes, with what their examples really yield."""

from __future__ import annotations

import json
import sys
import textwrap

from ..spec.codes import STAGES, all_codes, codes_of
from ..spec.codes.entry import Code
from ..spec.suggest import by_closeness, listing
from .faults import FINE, WRONG_USAGE


def explain_code(name: str) -> int:
    code = _find(name)
    if code is None:
        _, known = all_codes(), [*all_codes(), *(code.slug for code in all_codes().values())]
        print(
            f"llmc explain: no code `{name}`; closest: {listing(by_closeness(name, known), at_most=5)}", file=sys.stderr
        )
        return WRONG_USAGE
    print(f"{code.severity} {code.id} {code.slug}: {code.meaning()}")
    if code.explanation():
        print(f"\n{code.explanation()}")
    edits = "".join(f", with {json.dumps(value)} as `{path}` of its plan" for path, value in code.plan_edits.items())
    print(f"\nA spec that yields it{_options(code.failing_set)}{edits}\n\n{_indented(_printable(code.failing_spec()))}")
    message = _message(code)
    if message:
        print(f"\nwhat llmc says\n\n{_indented(message)}")
    print(
        f"\nand {'the same without the edit' if code.plan_edits else 'one that does not'}{_options(code.fixed_set)}\n\n{_indented(code.fixed_spec())}"
    )
    return FINE


def list_codes() -> int:
    for letter, (stage, _) in STAGES.items():
        codes = codes_of(letter)
        if codes:
            print(f"{letter}: {stage}")
        for code in codes.values():
            print(f"  {code.id}  {code.slug:<24} {code.meaning()}")
    return FINE


def _find(name: str) -> type[Code] | None:
    plain = name.upper().removeprefix("LLMC-")
    codes = all_codes()
    return codes.get(plain) or next((code for code in codes.values() if code.slug == name.lower()), None)


def _message(code: type[Code]) -> str:
    """What loading the failing spec says; nothing for codes of later stages."""
    from ..spec.codes.demonstrate import failing_diagnostics
    from ..spec.rendering import render_all

    if code.stage != "load":
        return ""
    return render_all(each for each in failing_diagnostics(code) if each.code == code.id)


def _options(overrides: tuple[str, ...]) -> str:
    return " with " + " ".join(f"--set {option}" for option in overrides) if overrides else ""


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _indented(text: str) -> str:
    return textwrap.indent(text.rstrip("\n"), "    ")
