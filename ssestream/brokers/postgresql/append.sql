-- Appending to a log.

-- Whether an append removes entries of the log *c*: once for every 16 entries, and each time from a
-- log with an age, so that no entry that is too old is kept when the log is told to keep more.
CREATE FUNCTION ssestream.is_due(c ssestream.channels) RETURNS boolean
    LANGUAGE sql IMMUTABLE AS
    'SELECT c.last - c.first >= c.history + 16 OR c.age IS NOT NULL';

-- Remove a few entries of the log *c*, whose row the caller has locked.
CREATE FUNCTION ssestream.cut(c ssestream.channels) RETURNS void
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    oldest bigint := ssestream.cut_off(c, 32);
BEGIN
    IF oldest <> c.first THEN
        UPDATE ssestream.channels x SET first = oldest WHERE x.id = c.id;
    END IF;
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
    -- Most appends: no terms, to a log that is there. One statement locks and counts.
    IF a_terms IS NULL AND NOT a_again THEN
        UPDATE ssestream.channels x SET last = x.last + 1, token = left(a_token, 6),
            messages = x.messages + (NOT a_is_control)::integer,
            at = greatest(x.at, ssestream.seconds()), history = greatest(x.history, a_history),
            age = CASE WHEN a_age > x.age THEN a_age ELSE x.age END
            WHERE x.name = a_name AND x.expires IS NULL AND (x.ended = 0 OR a_is_control)
            RETURNING x.* INTO c;
        IF FOUND THEN
            IF EXISTS (SELECT FROM ssestream.retried r WHERE r.token = a_token) THEN
                RAISE 'a later try of this append has come first';
            END IF;
            INSERT INTO ssestream.events VALUES (c.id, c.last, c.at,
                c.messages + a_is_control::integer, c.token, a_frame);
            IF ssestream.is_due(c) THEN
                PERFORM ssestream.cut(c);
            END IF;
            outcome := 'stored'; o_log := c.log; o_number := c.last;
            o_history := c.history; o_age := c.age;
            IF a_notify THEN
                PERFORM pg_notify('ssestream', a_name);
            END IF;
            RETURN;
        END IF;
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
        -- Nobody waits for the answer any more.
        RAISE 'a later try of this append has come first';
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
    IF ssestream.is_due(c) THEN
        c.first := ssestream.cut_off(c, 32);
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
