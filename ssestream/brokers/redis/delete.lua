-- Delete a log, and tell its followers to read it: they find that it is gone.

local key, bounds = KEYS[1], KEYS[2]
redis.call('DEL', key, bounds)
return announce(ARGV[1], ARGV[2], '') or ''
