"""The words of the library: one per idea, in plain English."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import flowercnn

PACKAGE = Path(flowercnn.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

BANNED = {
    r"\bpictures?\b": "image",
    r"\banew\b": "again",
    r"\btold\b": "given, set, known",
    r"(?<!there )\b(is|are) none\b": "there is no, is not a",
    r"\bhas not\b(?! \w+(ed|en|t)\b)": "does not have",
    r"\b(go|goes|going) on\b": "continue",
    r"\bnothing known\b": "unknown, out-of-distribution",
    r"\bfamiliar\b": "in-distribution",
    r"\bmay not be\b": "must not be, is not",
    r"\bwhat tells\b": "what distinguishes",
    r"\bnear-cop(y|ies)\b": "near-duplicate",
    r"\bby heart\b": "memorise",
    r"\bthereof\b": "of it",
    r"[,;] else (?!if\b)[a-z]": "otherwise",
}
TITLES = r"^(What|Who|Whether what)\b"


def texts(module: Path) -> list[tuple[int, str, bool]]:
    """Return line, text and whether it is a docstring, of all docstrings and messages of a
    module."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return [
        (node.lineno, node.value, id(node) in docstrings)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_banned_phrases_are_in_no_docstring_and_no_message(module: Path) -> None:
    found = [
        f"{module.name}:{line}: {match[0]!r} (say: {instead})"
        for line, text, _ in texts(module)
        for phrase, instead in BANNED.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    ]
    assert found == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_docstring_begins_with_the_noun(module: Path) -> None:
    found = [
        f"{module.name}:{line}: {text.splitlines()[0]}"
        for line, text, is_docstring in texts(module)
        if is_docstring and re.match(TITLES, text)
    ]
    assert found == []
