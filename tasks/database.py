"""`python -m tasks.database`: checks whether Prefect's server can use the PostgreSQL database it is given, before it starts.

The server itself would answer with a traceback of its migrations. This prints nothing if the database can be used, or is
not PostgreSQL.
"""

from __future__ import annotations

import asyncio
import sys

import asyncpg  # type: ignore[import-untyped]
from prefect.settings import get_current_settings
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from codelutra.errors import UserError, redacted

_PATIENCE_SECONDS = 20
_FORM = "postgresql+asyncpg://HOST:5432/DATABASE, with NAME:PASSWORD@ before HOST"
# What the driver raises for a server that is away, refuses, or is none of PostgreSQL's.
_NOT_LET_IN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError, ValueError)
# Prefect's first migration makes the extension pg_trgm, and tables in the first schema of the search path.
_USABLE = text(
    "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm'),"
    " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"
)


def require_database() -> None:
    """Raise UserError where Prefect's settings name a PostgreSQL that its server cannot use."""
    named = get_current_settings().server.database.connection_url
    given = named.get_secret_value() if named else ""
    if not given or given.startswith("sqlite"):
        return
    try:
        url = make_url(given)
        if url.drivername != "postgresql+asyncpg" or not url.database:
            raise ArgumentError("another driver, or no database")
    except (ArgumentError, ValueError) as e:
        raise UserError(f"PREFECT_SERVER_DATABASE_CONNECTION_URL is no address like {_FORM}: {redacted(given)}") from e
    at = f"the database {url.database!r} of Prefect's server at {url.host}:{url.port or 5432}"
    mend = f"start it, or put PREFECT_SERVER_DATABASE_CONNECTION_URL right: {_FORM}"
    try:
        has_trigrams, may_create = asyncio.run(_asked(url))
    except _NOT_LET_IN as e:
        said = " ".join((str(getattr(e, "orig", e)) or type(e).__name__).split())[:300]
        raise UserError(f"{at} does not let {url.username} in: {redacted(said)}; {mend}") from e
    if not has_trigrams:
        raise UserError(f"{at} has no extension pg_trgm, which Prefect needs; install PostgreSQL's contrib package there")
    if not may_create:
        raise UserError(
            f"{at} does not let {url.username} make tables; as its administrator: "
            f'ALTER DATABASE "{url.database}" OWNER TO "{url.username}"'
        )


async def _asked(url: URL) -> tuple[bool, bool]:
    engine = create_async_engine(url, connect_args={"timeout": _PATIENCE_SECONDS})
    try:
        async with engine.connect() as connection:
            has_trigrams, may_create = (await connection.execute(_USABLE)).one()
            return bool(has_trigrams), bool(may_create)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    try:
        require_database()
    except UserError as e:
        print(f"server: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
