-- Set the bounds of a log if the log exists. Returns the new bounds.

local key, bounds = KEYS[1], KEYS[2]
local asked, age, usual = unpack(ARGV)
local log, last, info = log_of(key)
if log == '' then return {'', ''} end
local history = redis.call('HGET', bounds, 'history')
history = asked ~= '' and asked or history or usual
redis.call('HSET', bounds, 'history', history, 'age', age)
local most = history + math.max(controls_in(info), 0)
redis.call('XTRIM', key, 'MAXLEN', string.format('%.0f', most))
return {history, age}
