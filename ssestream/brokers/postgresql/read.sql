-- Reading a log.

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
    IF c.last = c.messages AND c.age IS NULL THEN
        -- All are messages.
        low := greatest(low, c.last - c.history + 1);
    ELSIF c.last - c.first >= c.history OR c.age IS NOT NULL THEN
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
