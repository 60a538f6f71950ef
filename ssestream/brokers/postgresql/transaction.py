"""Execute a statement as a part of an app's own transaction."""

from typing import Any

from . import psycopg


def fetch_within(connection: Any, statement: str, parameters: tuple[Any, ...]) -> Any:
    """The row of *statement* in the transaction of *connection*.

    *connection* is one of psycopg 3, or a ``Connection`` of SQLAlchemy 2 that has one. Raises
    ``TypeError`` for another object, and the errors of psycopg.
    """
    if psycopg.is_connection(connection):
        return psycopg.fetch(connection, statement, parameters)
    dialect = getattr(connection, "dialect", None)
    if dialect is None or not hasattr(connection, "exec_driver_sql"):
        raise TypeError(
            "connection is a Connection of SQLAlchemy, such as db.session.connection(), or of"
            f" psycopg 3, not {type(connection).__name__}"
        )
    if (dialect.name, dialect.driver) != ("postgresql", "psycopg"):
        raise TypeError(
            "connection must be one of psycopg 3, as in create_engine('postgresql+psycopg://...'),"
            f" not of {dialect.name}+{dialect.driver}"
        )
    try:
        # By SQLAlchemy, and not by the connection below: SQLAlchemy begins its transaction here.
        return connection.exec_driver_sql(statement, parameters).fetchone()
    except Exception as error:
        original = getattr(error, "orig", None)
        if isinstance(original, psycopg.Error):
            raise original from error
        raise
