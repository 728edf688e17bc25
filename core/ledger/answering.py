"""What it means when PostgreSQL does not answer, or says that it cannot now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from core.errors import LedgerUnavailable

# What a lost or refusing server raises. A mistake of ours (a wrong query, a broken law) is none.
_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.exceptions.InternalClientError,
    asyncpg.TransactionRollbackError,
    asyncpg.exceptions.PostgresIOError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.QueryCanceledError,
    asyncpg.ReadOnlySQLTransactionError,
    # The schema is not there, or not for us: until its owner has been here.
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.InsufficientPrivilegeError,
)


@contextmanager
def answering() -> Iterator[None]:
    """What goes wrong with the server in here is a LedgerUnavailable."""
    try:
        yield
    except _LOST as error:
        words = str(error) or type(error).__name__
        raise LedgerUnavailable(f"the ledger does not answer: {words}") from error
