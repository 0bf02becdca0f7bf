"""
Accounts of one machine: who may log in, kept in SQLite, hashed with argon2id.

L{sockapps.accounts.store} keeps them, L{sockapps.accounts.passwords} hashes and compares,
L{sockapps.accounts.checker} answers C{twisted.cred}, L{sockapps.accounts.plugin} is
C{--auth=accounts:FILE}, and L{sockapps.accounts.commands} is what a person types.
"""
