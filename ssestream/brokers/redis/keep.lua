-- Set the bounds and the ttl of a log if the log exists. Returns the new bounds.

local key, bounds = KEYS[1], KEYS[2]
local asked, age, usual, ttl, grace = unpack(ARGV)
local log, last, info = log_of(key)
if log == '' then return {'', ''} end
-- What is set anew here may be damaged.
local history = asked ~= '' and asked or fields_of(bounds, 'history') or usual
local had_ttl = redis.call('HGET', bounds, 'ttl')
redis.call('HSET', bounds, 'history', history, 'age', age)
if ttl ~= '' then set_time(bounds, 'ttl', ttl)
elseif had_ttl then redis.call('HDEL', bounds, 'ttl') end
if had_ttl or ttl ~= '' then set_life(key, bounds)
else
  redis.pcall('PERSIST', key)
  redis.pcall('PERSIST', bounds)
end
if age ~= '' and ttl == '' then expire(key, bounds, age / 1000 + grace) end
local most = history + math.max(controls_in(info), 0)
redis.call('XTRIM', key, 'MAXLEN', string.format('%.0f', most))
return {history, age}
