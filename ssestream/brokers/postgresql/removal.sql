-- Removing what logs no longer keep, a few entries in each call.

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

-- Free at most *a_limit* rows of deleted or expired logs. Returns whether there may be more.
CREATE FUNCTION ssestream.sweep(a_limit bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    -- With a constant, the index finds them without a look at those that live on.
    t double precision := ssestream.seconds();
    key bigint;
    removed bigint;
BEGIN
    FOR key IN SELECT x.id FROM ssestream.channels x WHERE x.expires <= t
        ORDER BY x.expires LIMIT 100 FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE ssestream.channels x SET name = NULL, ended = 0, leased = NULL, expires = 0
            WHERE x.id = key AND x.name IS NOT NULL;
        DELETE FROM ssestream.events e WHERE e.ctid = ANY (ARRAY(
            SELECT o.ctid FROM ssestream.events o WHERE o.channel = key ORDER BY o.number
            LIMIT a_limit));
        GET DIAGNOSTICS removed = ROW_COUNT;
        a_limit := a_limit - removed;
        EXIT WHEN a_limit <= 0;
        DELETE FROM ssestream.channels x WHERE x.id = key;
    END LOOP;
    RETURN FOUND;
END $$;

-- Remove entries that are too old, from the next logs behind the id *a_after*: at most *a_limit*
-- in all. *o_after* is the id to go on behind, or 0 at the end. *o_is_full* tells that *a_limit*
-- entries were removed, so that there may be more at once.
CREATE FUNCTION ssestream.forget(
    a_after bigint, a_limit bigint, OUT o_after bigint, OUT o_is_full boolean)
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    c ssestream.channels;
    ids bigint[] := ARRAY(SELECT x.id FROM ssestream.channels x
        WHERE x.age IS NOT NULL AND x.id > a_after ORDER BY x.id LIMIT 100);
    oldest bigint;
BEGIN
    DELETE FROM ssestream.retried r WHERE r.at < ssestream.seconds() - 60;
    o_after := coalesce(ids[100], 0);
    FOR c IN SELECT x.* FROM ssestream.channels x JOIN ssestream.events e
        ON e.channel = x.id AND e.number = x.first AND e.at <= ssestream.seconds() - x.age
        WHERE x.id = ANY (ids) ORDER BY x.id FOR NO KEY UPDATE OF x SKIP LOCKED
    LOOP
        oldest := ssestream.cut_off(c, a_limit);
        UPDATE ssestream.channels x SET first = oldest WHERE x.id = c.id;
        -- There may be more in this log, and in the logs behind it.
        o_after := c.id - 1;
        a_limit := a_limit - (oldest - c.first);
        EXIT WHEN a_limit <= 0;
    END LOOP;
    o_is_full := a_limit <= 0;
END $$;
