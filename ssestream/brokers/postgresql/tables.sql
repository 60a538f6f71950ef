-- The tables of ssestream, version 1: one log for each channel.
--
-- The account of the app needs only these rights; replace "app":
--   GRANT USAGE ON SCHEMA ssestream TO app;
--   GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ssestream TO app;

CREATE SCHEMA IF NOT EXISTS ssestream;

CREATE TABLE ssestream.version (version integer NOT NULL);

-- *first* is the number of the oldest entry in the table events. *last*, *token* and *at* are the
-- number, check and time of the newest entry ever appended. *messages* is the number of all
-- messages ever appended. An *age* of NULL means any age. *ended* is the number of the entry that
-- ended the log, or 0. *leased* is the time when the lease runs out. *expires* is the time when the
-- log is deleted, *ttl* seconds after an append. NULL means that there is none. A deleted log has
-- no name.
--
-- No index has a column that an append changes. So an append changes its row in place (a HOT
-- update), for which the pages must have room.
CREATE TABLE ssestream.channels (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" UNIQUE,
    log text NOT NULL,
    first bigint NOT NULL DEFAULT 1,
    last bigint NOT NULL DEFAULT 0,
    token text NOT NULL DEFAULT '',
    messages bigint NOT NULL DEFAULT 0,
    at double precision NOT NULL DEFAULT 0,
    history bigint NOT NULL,
    age double precision,
    ended bigint NOT NULL DEFAULT 0,
    leased double precision,
    ttl double precision,
    expires double precision
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX channels_expires ON ssestream.channels (expires) WHERE expires IS NOT NULL;
CREATE INDEX channels_aged ON ssestream.channels (id) WHERE age IS NOT NULL;

-- *message* is the number of this message among all messages of its log. A control frame has the
-- number of the next message, and is kept as long as that message. *at* never decreases within a
-- log, even if the clock is set back. A log has all entries from *first* to *last*.
CREATE TABLE ssestream.events (
    channel bigint NOT NULL,
    number bigint NOT NULL,
    at double precision NOT NULL,
    message bigint NOT NULL,
    token text NOT NULL,
    frame bytea NOT NULL,
    PRIMARY KEY (channel, number)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- The appends that were tried again, because their answer was lost. The first try may still come.
CREATE UNLOGGED TABLE ssestream.retried (
    token text PRIMARY KEY,
    at double precision NOT NULL
);

CREATE FUNCTION ssestream.seconds() RETURNS double precision
    LANGUAGE sql VOLATILE AS 'SELECT extract(epoch FROM clock_timestamp())::double precision';

INSERT INTO ssestream.version VALUES (1);
