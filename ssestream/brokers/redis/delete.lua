-- Delete a log, and tell its followers to read it: they find that it is gone. Another log of the
-- channel, which has begun since its deletion was asked for, stays.

local key, bounds = KEYS[1], KEYS[2]
local log = log_of(key)
if log ~= '' and log ~= ARGV[3] then return '' end
redis.call('DEL', key, bounds)
return announce(ARGV[1], ARGV[2], '') or ''
