-- The tables and functions of ssestream, version 1: one log for each channel.
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

-- Remove at most *a_limit* entries that the log *c* no longer keeps. Returns the number of the
-- oldest entry that is left. The caller has locked the row of *c*, and stores that number.
CREATE FUNCTION ssestream.cut_off(c ssestream.channels, a_limit bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    old double precision := ssestream.seconds() - c.age;
    removed bigint;
BEGIN
    DELETE FROM ssestream.events e
        WHERE e.channel = c.id AND e.number >= c.first AND e.number < c.first + a_limit
        AND (e.message <= c.messages - c.history OR e.number <= c.last - c.history - 10000
             OR e.at <= old);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN c.first + removed;
END $$;

-- Append *a_frame* to the log of *a_name*. *a_log* is the identity of the log if it is made now.
-- The first 6 digits of *a_token* are the check of the entry. *a_again* tells that an earlier try
-- with this token may have taken effect. *a_patience* is the time in which a lock must be free.
-- *a_notify* lets the followers know when the transaction is committed. *a_terms* are the terms of
-- the append, or NULL.
CREATE FUNCTION ssestream.append(
    a_name text, a_frame bytea, a_is_control boolean, a_history bigint, a_age double precision,
    a_log text, a_token text, a_again boolean, a_patience text, a_notify boolean, a_terms jsonb,
    OUT outcome text, OUT o_log text, OUT o_number bigint, OUT o_history bigint,
    OUT o_age double precision)
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    c ssestream.channels;
    t double precision;
    is_new boolean := false;
    end_frame bytea := decode(a_terms->>'end', 'base64');
BEGIN
    IF a_patience IS NOT NULL THEN
        PERFORM set_config('lock_timeout', a_patience, true);
    END IF;
    LOOP
        SELECT x.* INTO c FROM ssestream.channels x WHERE x.name = a_name FOR NO KEY UPDATE;
        t := ssestream.seconds();
        IF FOUND THEN
            EXIT WHEN c.expires IS NULL OR c.expires > t;
            UPDATE ssestream.channels x SET name = NULL, ended = 0, leased = NULL, expires = 0
                WHERE x.id = c.id;
        END IF;
        IF a_terms ? 'of' OR a_terms ? 'if_lapsed' THEN
            outcome := 'refused';
            RETURN;
        END IF;
        INSERT INTO ssestream.channels AS x (name, log, history, age)
            VALUES (a_name, a_log, coalesce(a_history, 1000), a_age)
            ON CONFLICT (name) DO NOTHING RETURNING x.* INTO c;
        is_new := FOUND;
        -- If another transaction has made the log meanwhile, lock its row.
        EXIT WHEN is_new;
    END LOOP;
    o_log := c.log;
    IF a_again THEN
        SELECT e.number INTO o_number FROM ssestream.events e
            WHERE e.channel = c.id AND e.number > c.last - 1000 AND e.token = left(a_token, 6)
            AND e.frame = a_frame LIMIT 1;
        IF FOUND THEN
            outcome := 'stored'; o_history := c.history; o_age := c.age;
            RETURN;
        END IF;
        INSERT INTO ssestream.retried VALUES (a_token, t) ON CONFLICT DO NOTHING;
    ELSIF EXISTS (SELECT FROM ssestream.retried r WHERE r.token = a_token) THEN
        -- A later try of the same append has come first.
        outcome := 'late';
        RETURN;
    END IF;
    IF NOT is_new THEN
        IF a_terms IS NOT NULL AND (a_terms ? 'new' OR a_terms->>'of' <> c.log
                OR (a_terms->>'number')::bigint <> c.last + 1
                OR (a_terms ? 'if_lapsed' AND (c.leased IS NULL OR c.leased > t))) THEN
            outcome := 'refused';
            RETURN;
        END IF;
        IF c.ended > 0 AND (end_frame IS NOT NULL OR NOT a_is_control) THEN
            outcome := 'ended';
            RETURN;
        END IF;
        c.history := greatest(c.history, a_history);
        -- A NULL in the log's own age is already the widest: entries of any age.
        c.age := CASE WHEN a_age > c.age THEN a_age ELSE c.age END;
    END IF;
    c.at := greatest(c.at, t);
    c.last := c.last + 1;
    c.token := left(a_token, 6);
    o_number := c.last;
    INSERT INTO ssestream.events VALUES (c.id, c.last, c.at, c.messages + 1, c.token, a_frame);
    IF NOT a_is_control THEN
        c.messages := c.messages + 1;
    END IF;
    IF end_frame <> a_frame THEN
        c.last := c.last + 1;
        c.token := right(a_token, 6);
        INSERT INTO ssestream.events
            VALUES (c.id, c.last, c.at, c.messages + 1, c.token, end_frame);
    END IF;
    IF a_terms IS NOT NULL OR c.expires IS NOT NULL THEN
        IF end_frame IS NOT NULL THEN
            c.ended := c.last;
            c.leased := NULL;
        END IF;
        IF a_terms ? 'lease' THEN
            c.leased := t + (a_terms->>'lease')::double precision;
        END IF;
        c.ttl := coalesce((a_terms->>'ttl')::double precision, c.ttl);
        c.expires := greatest(t, c.leased) + c.ttl;
    END IF;
    IF c.last - c.first >= c.history OR c.age IS NOT NULL THEN
        c.first := ssestream.cut_off(c, 16);
    END IF;
    UPDATE ssestream.channels x SET first = c.first, last = c.last, token = c.token,
        messages = c.messages, at = c.at, history = c.history, age = c.age, ended = c.ended,
        leased = c.leased, ttl = c.ttl, expires = c.expires WHERE x.id = c.id;
    outcome := 'stored'; o_history := c.history; o_age := c.age;
    IF a_notify THEN
        PERFORM pg_notify('ssestream', a_name);
    END IF;
END $$;

-- The same as a transaction of its own, and then let the followers know. PostgreSQL lets the
-- transactions that notify end one after another, each after its write to the disk. Therefore
-- another transaction notifies, which writes nothing.
CREATE PROCEDURE ssestream.publish(
    a_name text, a_frame bytea, a_is_control boolean, a_history bigint, a_age double precision,
    a_log text, a_token text, a_again boolean, a_patience text, a_terms jsonb,
    INOUT outcome text, INOUT o_log text, INOUT o_number bigint, INOUT o_history bigint,
    INOUT o_age double precision)
    LANGUAGE plpgsql AS $$
BEGIN
    SELECT r.* INTO outcome, o_log, o_number, o_history, o_age FROM ssestream.append(
        a_name, a_frame, a_is_control, a_history, a_age, a_log, a_token, a_again, a_patience, false,
        a_terms) r;
    COMMIT;
    IF outcome = 'stored' THEN
        PERFORM pg_notify('ssestream', a_name);
    END IF;
END $$;

-- Read entries of the log of *a_name* above the number *a_after*: at most *a_limit*, up to the
-- entry that brings the frames to *a_bytes*. *o_number* is the number of the first of *o_frames*.
CREATE FUNCTION ssestream.read(
    a_name text, a_after bigint, a_limit bigint, a_bytes bigint,
    OUT o_log text, OUT o_first bigint, OUT o_last bigint, OUT o_check text, OUT o_last_check text,
    OUT o_history bigint, OUT o_age double precision, OUT o_ended bigint,
    OUT o_lease double precision, OUT o_number bigint, OUT o_frames bytea[], OUT o_checks text[])
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    c ssestream.channels;
    e record;
    t double precision := ssestream.seconds();
    is_lost boolean;
    low bigint;
    middle bigint;
    high bigint;
BEGIN
    o_log := ''; o_first := 1; o_last := 0; o_check := ''; o_last_check := ''; o_ended := 0;
    o_number := 1; o_frames := '{}'; o_checks := '{}';
    SELECT x.* INTO c FROM ssestream.channels x
        WHERE x.name = a_name AND (x.expires IS NULL OR x.expires > t);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- Some entries may still be in the table that the log no longer keeps: look for the first one
    -- that it keeps, from *low* to *high*.
    low := c.first;
    IF c.last - c.first >= c.history OR c.age IS NOT NULL THEN
        high := c.last + 1;
        middle := low;
        WHILE low < high LOOP
            SELECT x.message <= c.messages - c.history OR coalesce(x.at <= t - c.age, false)
                INTO is_lost FROM ssestream.events x
                WHERE x.channel = c.id AND x.number = middle;
            IF NOT FOUND THEN
                RAISE data_corrupted USING MESSAGE = format('entry %s is missing', middle);
            END IF;
            IF is_lost THEN
                low := middle + 1;
            ELSE
                high := middle;
            END IF;
            middle := (low + high) / 2;
        END LOOP;
    END IF;
    o_log := c.log; o_first := low; o_last := c.last; o_last_check := c.token;
    o_history := c.history; o_age := c.age; o_ended := c.ended; o_lease := c.leased - t;
    IF a_after = c.last THEN
        o_check := c.token;
    ELSE
        SELECT x.token INTO o_check FROM ssestream.events x
            WHERE x.channel = c.id AND x.number = a_after;
        o_check := coalesce(o_check, '');
    END IF;
    o_number := greatest(low, a_after + 1);
    IF o_number <= c.last AND a_limit > 0 AND a_bytes > 0 THEN
        middle := o_number;
        FOR e IN SELECT x.number, x.token, x.frame FROM ssestream.events x
            WHERE x.channel = c.id AND x.number >= middle ORDER BY x.number LIMIT a_limit
        LOOP
            IF e.number <> middle THEN
                RAISE data_corrupted USING MESSAGE = format('entry %s is missing', middle);
            END IF;
            o_frames := array_append(o_frames, e.frame);
            o_checks := array_append(o_checks, e.token);
            a_bytes := a_bytes - octet_length(e.frame);
            EXIT WHEN a_bytes <= 0;
            middle := middle + 1;
        END LOOP;
        IF o_frames = '{}' THEN
            RAISE data_corrupted USING MESSAGE = format('entry %s is missing', middle);
        END IF;
    END IF;
END $$;

-- Remove at most *a_limit* entries that the log of *a_name* no longer keeps. Returns whether there
-- may be more.
CREATE FUNCTION ssestream.trim(a_name text, a_limit bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    c ssestream.channels;
    oldest bigint;
BEGIN
    SELECT x.* INTO c FROM ssestream.channels x WHERE x.name = a_name FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    oldest := ssestream.cut_off(c, a_limit);
    UPDATE ssestream.channels x SET first = oldest WHERE x.id = c.id;
    RETURN oldest = c.first + a_limit;
END $$;

-- Free at most *a_limit* rows of a deleted or expired log. Returns whether there may be more.
CREATE FUNCTION ssestream.sweep(a_limit bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    key bigint;
    removed bigint;
BEGIN
    SELECT x.id INTO key FROM ssestream.channels x WHERE x.expires <= ssestream.seconds()
        ORDER BY x.expires LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE ssestream.channels x SET name = NULL, ended = 0, leased = NULL, expires = 0
        WHERE x.id = key AND x.name IS NOT NULL;
    DELETE FROM ssestream.events e WHERE e.ctid = ANY (ARRAY(
        SELECT o.ctid FROM ssestream.events o WHERE o.channel = key ORDER BY o.number
        LIMIT a_limit));
    GET DIAGNOSTICS removed = ROW_COUNT;
    IF removed < a_limit THEN
        DELETE FROM ssestream.channels x WHERE x.id = key;
    END IF;
    RETURN true;
END $$;

-- Remove entries that are too old, from the next logs behind the id *a_after*: at most *a_limit*
-- of each. Returns the id to go on behind, or 0 at the end.
CREATE FUNCTION ssestream.forget(a_after bigint, a_limit bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    c ssestream.channels;
    ids bigint[] := ARRAY(SELECT x.id FROM ssestream.channels x
        WHERE x.age IS NOT NULL AND x.id > a_after ORDER BY x.id LIMIT 100);
    oldest bigint;
BEGIN
    DELETE FROM ssestream.retried r WHERE r.at < ssestream.seconds() - 60;
    FOR c IN SELECT x.* FROM ssestream.channels x JOIN ssestream.events e
        ON e.channel = x.id AND e.number = x.first AND e.at <= ssestream.seconds() - x.age
        WHERE x.id = ANY (ids) ORDER BY x.id LIMIT 10 FOR NO KEY UPDATE OF x SKIP LOCKED
    LOOP
        oldest := ssestream.cut_off(c, a_limit);
        UPDATE ssestream.channels x SET first = oldest WHERE x.id = c.id;
        -- There may be more in this log, and in the logs behind it.
        a_after := c.id - 1;
    END LOOP;
    RETURN CASE WHEN FOUND THEN a_after ELSE coalesce(ids[100], 0) END;
END $$;

INSERT INTO ssestream.version VALUES (1);
