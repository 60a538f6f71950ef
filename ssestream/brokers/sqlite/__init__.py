"""The ``sqlite://`` broker: logs in one SQLite file, shared by all processes of a host.

An entry is stored once its transaction is in the write-ahead log of the file. After `append`
has returned, the end of a process cannot lose the entry, not even by ``kill -9``. A loss of
power may lose the newest entries, but leaves the file intact. (To wait for the disk at each
append would stop everything else in the process.)

After each append, the broker touches the file, which changes only the file's times. The kernel
then wakes the waiting processes (inotify), so no process needs to poll. Without inotify, a waiting
process looks at the file every 20 ms. Even with inotify, a waiting process looks once a second,
because a publisher may be killed between its append and its touch.

All channels share one counter, and each append takes the next number. `wait` asks for the whole
file which channels have changed since the last number that it saw (see ``seen``). So an event costs
the same however many channels are followed.

Each append removes a few entries that its log no longer keeps. Each append also removes a few
entries that are too old for their logs, because some logs get no append any more.

No other greenlet runs during a call of SQLite. Therefore all transactions are short, and no
transaction waits for a lock. If the file is locked, the transaction is tried again after a pause
in which other greenlets run.

The file must be on a disk of this host, because write-ahead logs use shared memory.
"""

from .broker import SqliteBroker

__all__ = ["SqliteBroker"]
