"""
Tests for L{sockapps.literals}: it is pure, so they call it.
"""

from __future__ import annotations

import ast
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from sockapps.literals import TEXT, unquote

anyText = st.text(st.characters(codec=None, exclude_categories=()))


class LiteralTests(SynchronousTestCase):
    """What repr writes is read, and nothing else."""

    @given(anyText)
    @example("it's")
    @example('"it\'s"')
    @example("\\n\n\r\t\0\x1f\x7f\x85\xad\u2028\ud800\udcff\U0010ffff\U000e0001")
    def test_whatReprWritesIsReadBack(self, text: str) -> None:
        literal = repr(text)
        assert re.fullmatch(TEXT, literal)
        assert unquote(literal) == text

    @given(st.lists(anyText))
    def test_theTextsOfAListAreFoundInIt(self, texts: list[str]) -> None:
        assert [unquote(literal) for literal in re.findall(TEXT, repr(texts))] == texts

    @given(st.text("\\'\"abnrtuxUN{}0123456789fF\n", max_size=14))
    def test_whateverIsReadMeansWhatItMeansToPython(self, inner: str) -> None:
        for quote in "'\"":
            literal = quote + inner + quote
            if not re.fullmatch(TEXT, literal):
                continue
            try:
                text = unquote(literal)
            except ValueError:
                continue
            assert text == ast.literal_eval(literal)

    def test_escapesThatReprDoesNotWriteAreRefused(self) -> None:
        for literal in [
            r"'\a'",
            r"'\101'",
            r"'\N{DIGIT ONE}'",
            r"'\x4'",
            r"'\u123'",
            r"'\U00110000'",
            r"'\U1234'",
            r"'\ '",
        ]:
            with pytest.raises(ValueError, match="no escape that repr writes: "):
                unquote(literal)

    def test_whatIsNoTextInQuotesDoesNotMatch(self) -> None:
        for literal in ["", "'", "''' '", "b'a'", "f'a'", "'a\"", "'a\n'", "'a\\\n'", "'a\\'", "a"]:
            assert not re.fullmatch(TEXT, literal), literal
