-- Appending to several logs in one transaction.

-- Append each of *a_frames* to the log of its name, if the log is there, has not ended and does not
-- expire. All arrays have the same length. The outcome of an entry is 'stored'; 'locked' if another
-- transaction has locked the log; or NULL if the function for one append has to decide. *a_patience*
-- is the time in which the lock of the first log must be free, or NULL. The other logs are never
-- waited for. So two of these transactions do not wait for each other.
CREATE PROCEDURE ssestream.publish_all(
    a_names text[], a_frames bytea[], a_controls boolean[], a_histories bigint[],
    a_ages double precision[], a_tokens text[], a_patience text,
    INOUT o_outcomes text[], INOUT o_logs text[], INOUT o_numbers bigint[],
    INOUT o_histories bigint[], INOUT o_ages double precision[])
    LANGUAGE plpgsql AS $$
DECLARE
    c ssestream.channels;
    size integer := cardinality(a_names);
BEGIN
    o_outcomes := array_fill(NULL::text, ARRAY[size]);
    o_logs := o_outcomes;
    o_numbers := array_fill(NULL::bigint, ARRAY[size]);
    o_histories := o_numbers;
    o_ages := array_fill(NULL::double precision, ARRAY[size]);
    IF a_patience IS NOT NULL THEN
        PERFORM set_config('lock_timeout', a_patience, true);
        PERFORM FROM ssestream.channels x WHERE x.name = a_names[1] FOR NO KEY UPDATE;
    END IF;
    FOR i IN 1 .. size LOOP
        UPDATE ssestream.channels x SET last = x.last + 1, token = left(a_tokens[i], 6),
            messages = x.messages + (NOT a_controls[i])::integer,
            at = greatest(x.at, ssestream.seconds()),
            history = greatest(x.history, a_histories[i]),
            age = CASE WHEN a_ages[i] > x.age THEN a_ages[i] ELSE x.age END
            WHERE x.id = (SELECT y.id FROM ssestream.channels y WHERE y.name = a_names[i]
                AND y.expires IS NULL AND y.ended = 0 FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING x.* INTO c;
        IF FOUND THEN
            INSERT INTO ssestream.events VALUES (c.id, c.last, c.at,
                c.messages + a_controls[i]::integer, c.token, a_frames[i]);
            IF ssestream.is_due(c) THEN
                PERFORM ssestream.cut(c);
            END IF;
            o_outcomes[i] := 'stored'; o_logs[i] := c.log; o_numbers[i] := c.last;
            o_histories[i] := c.history; o_ages[i] := c.age;
        ELSIF EXISTS (SELECT FROM ssestream.channels y WHERE y.name = a_names[i]
                AND y.expires IS NULL AND y.ended = 0) THEN
            o_outcomes[i] := 'locked';
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM ssestream.retried r WHERE r.token = ANY (a_tokens)) THEN
        -- A later try of one of them has come first.
        ROLLBACK;
        o_outcomes := array_fill(NULL::text, ARRAY[size]);
        RETURN;
    END IF;
    COMMIT;
    PERFORM pg_notify('ssestream', n.name) FROM (SELECT DISTINCT u.name
        FROM unnest(a_names, o_outcomes) u (name, outcome) WHERE u.outcome = 'stored') n;
END $$;
