"""
Hashing passwords and comparing them: argon2id, with the parameters OWASP names.
"""

from __future__ import annotations

import os
import unicodedata
from base64 import b64encode

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from sockapps.accounts.names import AccountsError

LONGEST_PASSWORD = 1024
"""In bytes, as it came."""

HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1, hash_len=32, salt_len=16)


def _nobodysHash() -> str:
    """
    Make the hash that is compared where there is no account: the same work, and no password
    fits it.
    """
    salt, digest = (
        b64encode(os.urandom(length)).rstrip(b"=").decode("ascii")
        for length in (HASHER.salt_len, HASHER.hash_len)
    )
    cost = f"m={HASHER.memory_cost},t={HASHER.time_cost},p={HASHER.parallelism}"
    return f"$argon2id$v=19${cost}${salt}${digest}"


NOBODYS_HASH = _nobodysHash()


def passwordBytes(password: str) -> bytes:
    """
    Bring a password into the one form that is hashed and compared: NFC, in UTF-8.

    @raise AccountsError: it cannot be a password. The text does not hold it.
    """
    if not password:
        raise AccountsError("the password is empty")
    if len(password.encode("utf-8", "surrogatepass")) > LONGEST_PASSWORD:
        raise AccountsError(f"the password has more than {LONGEST_PASSWORD} bytes")
    try:
        return unicodedata.normalize("NFC", password).encode("utf-8")
    except UnicodeEncodeError:
        raise AccountsError("the password is not valid Unicode text") from None


def hashPassword(password: str) -> str:
    """
    Make what is stored of a password. It takes about 20 ms.

    @raise AccountsError: it cannot be a password.
    """
    return HASHER.hash(passwordBytes(password))


def fits(passwordHash: str | None, password: bytes) -> bool:
    """
    Compare a password with a stored hash, doing the same work if there is none.

    @param password: As L{passwordBytes} makes it.
    @raise AccountsError: the stored hash is broken.
    """
    try:
        HASHER.verify(NOBODYS_HASH if passwordHash is None else passwordHash, password)
    except VerifyMismatchError:
        return False
    except (InvalidHashError, VerificationError):
        raise AccountsError("a stored hash cannot be used; set that password again") from None
    return passwordHash is not None
