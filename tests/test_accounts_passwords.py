"""
Tests for L{sockapps.accounts.names} and L{sockapps.accounts.passwords}, which are pure.
"""

from __future__ import annotations

import unicodedata

import pytest
from argon2 import Type, extract_parameters
from argon2.exceptions import VerifyMismatchError
from twisted.trial.unittest import SynchronousTestCase

from sockapps.accounts import passwords
from sockapps.accounts.names import AccountsError, normalName, shown
from sockapps.accounts.passwords import HASHER, NOBODYS_HASH, fits, hashPassword, passwordBytes


class NameTests(SynchronousTestCase):
    """What an account may be called."""

    def test_printableNamesOfUpTo64CharactersAreNames(self) -> None:
        for name in ("a", "x" * 64, "张三", "with space", "-", "'; DROP TABLE account", "😀"):
            assert normalName(name) == name

    def test_aNameHasOneFormAndIsCountedInIt(self) -> None:
        assert normalName("e\N{COMBINING DIAERESIS}" * 64) == "ë" * 64

    def test_otherNamesAreRefusedWithASentenceThatIsSafeToPrint(self) -> None:
        for name, says in (
            ("", "a name has 0 characters; it must have 1 to 64"),
            ("x" * 65, "a name has 65 characters; it must have 1 to 64"),
            ("a\nb", r"the name 'a\nb' has characters that do not print"),
            ("a\x1b[31m", r"the name 'a\x1b[31m' has characters that do not print"),
            ("a\x85", r"the name 'a\x85' has characters that do not print"),
            ("a\u202eb", r"the name 'a\u202eb' has characters that do not print"),
            ("a\u200bb", r"the name 'a\u200bb' has characters that do not print"),
            ("a\udcffb", r"the name 'a\udcffb' has characters that do not print"),
        ):
            with pytest.raises(AccountsError) as caught:
                normalName(name)
            assert str(caught.value) == says

    def test_shownKeepsWhatPrintsAndEscapesTheRest(self) -> None:
        assert shown("张三 é\x1b\u2066\udc80") == r"张三 é\x1b\u2066\udc80"


class PasswordTests(SynchronousTestCase):
    """Hashing and comparing."""

    def test_passwordsAreHashedAsOWASPSays(self) -> None:
        parameters = extract_parameters(hashPassword("secret"))
        assert (parameters.type, parameters.memory_cost) == (Type.ID, 19456)
        assert (parameters.time_cost, parameters.parallelism) == (2, 1)

    def test_onlyThePasswordFitsItsHashInEveryUnicodeForm(self) -> None:
        stored = hashPassword("pässword")
        decomposed = unicodedata.normalize("NFD", "pässword")
        assert decomposed != "pässword"
        assert fits(stored, passwordBytes(decomposed))
        assert not fits(stored, passwordBytes("passwort"))

    def test_nobodysHashCostsWhatARealOneCostsAndNothingFitsIt(self) -> None:
        assert extract_parameters(NOBODYS_HASH) == extract_parameters(hashPassword("x"))
        with pytest.raises(VerifyMismatchError):
            HASHER.verify(NOBODYS_HASH, b"")
        assert not fits(None, b"")

    def test_whereThereIsNoAccountNobodysHashIsReallyCompared(self) -> None:
        self.patch(passwords, "NOBODYS_HASH", "junk")
        with pytest.raises(AccountsError, match="cannot be used"):
            fits(None, b"secret")
        self.patch(passwords, "NOBODYS_HASH", hashPassword("secret"))
        assert not fits(None, b"secret")

    def test_aBrokenHashIsAnErrorAndNoRefusal(self) -> None:
        for stored in ("", "junk", "$argon2id$junk"):
            with pytest.raises(AccountsError, match="a stored hash cannot be used"):
                fits(stored, b"secret")

    def test_aPasswordOf1024BytesIsOne(self) -> None:
        assert passwordBytes("é" * 512) == "é".encode() * 512

    def test_whatCannotBeAPasswordIsRefusedAndNotShown(self) -> None:
        for password, says in (
            ("", "the password is empty"),
            ("é" * 513, "the password has more than 1024 bytes"),
            ("secret\udcff", "the password is not valid Unicode text"),
        ):
            with pytest.raises(AccountsError) as caught:
                hashPassword(password)
            assert str(caught.value) == says
            assert caught.value.__suppress_context__ or caught.value.__context__ is None
