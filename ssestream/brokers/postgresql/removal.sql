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
