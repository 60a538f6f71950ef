-- Renew or end the lease of a log. Returns 1, or 0 if the log has ended or is gone.

local key, bounds = KEYS[1], KEYS[2]
local of, lease = ARGV[1], tonumber(ARGV[2])
local log = log_of(key)
local ended, ttl = fields_of(bounds, 'ended', 'ttl')
if log == '' or log ~= of or is_of(log, ended) then return 0 end
if lease then set_time(bounds, 'leased', microseconds() + lease)
else redis.call('HDEL', bounds, 'leased') end
if ttl then set_life(key, bounds) end
return 1
