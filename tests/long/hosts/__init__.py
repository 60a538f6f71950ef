"""Several hosts on one machine: three networks of their own, nginx in front, one broker between.

``python -m tests.long.hosts --seed 1``. Each host has a gunicorn with two workers. Clients come
through the nginx of docs/deploy.rst, as an EventSource does, and publishers write numbered
messages. Meanwhile hosts are cut off and come back, workers are killed, and all hosts are reloaded
in turn. Afterwards each client holds every message of its channels exactly once and in order.

The broker is one Redis; with ``--broker postgresql`` it is one PostgreSQL. With ``--sentinel`` the
Redis has two replicas and three sentinels. Its master is killed under load, and a replica takes
over.

``python -m tests.long.hosts.figures`` measures the same hosts, for docs/scaling.rst.

Both need the rights to make networks, and Debian's nginx-light, iproute2, redis-server and
postgresql.
"""
