"""The ``postgresql://`` broker: logs in one PostgreSQL database, for the processes of many hosts.

An append is one call of a procedure in the database (see ``append.sql``), and one transaction. The
row of the channel counts its entries. The transaction locks this row until its end, so the numbers
of a log follow the order in which the transactions are committed, without a hole. An app can let
the append be a part of its own transaction (see ``transaction``).

After an append, the database notifies the listeners of all processes, and each reads the logs that
it follows. A notification is a hint only: each log is looked at in its turn, too (see
``listener``).

Some appends remove a few entries that their log no longer keeps. Deleted logs, and entries that are
too old, are freed a few at a time by all processes (see ``deletion``).

How safe a stored event is depends on the settings of the server, such as ``synchronous_commit``.
"""

from .broker import PostgresqlBroker

__all__ = ["PostgresqlBroker"]
