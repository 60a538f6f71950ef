-- What all scripts use: a log, and the entries and numbers in it.

-- The identity and last number of a log, and the XINFO of its stream as a table.
local function log_of(key)
  if redis.call('EXISTS', key) == 0 then return '', 0, {} end
  local info, said = {}, redis.call('XINFO', 'STREAM', key)
  for i = 1, #said, 2 do info[said[i]] = said[i + 1] end
  local log, last = string.match(info['last-generated-id'], '(%d+)-(%d+)')
  return log, tonumber(last), info
end

-- The fields of the hash with the bounds of a log, of these names: false for one that is missing.
-- Another program may have written one. Then this is an error before anything is changed.
local shapes = {history = '^%d+$', age = '^%d*$', ended = '^%d+%-%d+$', leased = '^%d+$',
  ttl = '^%d+$'}
local function fields_of(bounds, ...)
  local fields = redis.call('HMGET', bounds, ...)
  for i, name in ipairs({...}) do
    local longest = name == 'ended' and 41 or 20
    if fields[i] and (#fields[i] > longest or not string.match(fields[i], shapes[name])) then
      error('the log is damaged: ' .. name)
    end
  end
  return unpack(fields)
end

-- An entry is {id, {'f', frame, 't', microseconds, 'k', token, 'm', message}}. *message* is the
-- number of this message among all messages of the log. A control frame has the number of the
-- next message, and is kept as long as that message. An entry of an earlier version has no
-- *message*; every such entry counts as a message.
local function number(entry) return tonumber(string.match(entry[1], '-(%d+)')) end
local function id(log, n) return string.format('%s-%.0f', log, n) end
local function message(entry) return tonumber(entry[2][8]) or number(entry) end
local function time(entry) return tonumber(entry[2][4]) or 0 end
local function messages_up_to(entry)
  local control = entry[2][8] and string.byte(entry[2][2]) == 0
  return control and message(entry) - 1 or message(entry)
end

-- The check of an entry: its token in hexadecimal digits, so many of them.
local function check_of(entry, digits)
  if not entry then return '' end
  local token = string.sub(entry[2][6], 1, math.ceil(digits / 2))
  return string.sub(string.gsub(token, '.', function(c)
    return string.format('%02x', string.byte(c))
  end), 1, digits)
end

-- How many control frames are among the entries that Redis has of a stream.
local function controls_in(info)
  local first, last = info['first-entry'], info['last-entry']
  if not first then return 0 end
  return info['length'] - (messages_up_to(last) - message(first) + 1)
end

-- Whether *entry*, an id or false, is an entry of *log*.
local function is_of(log, entry) return entry and string.match(entry, '%d+') == log end

local function microseconds()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end

-- Let a log and its bounds expire in so many milliseconds, or later if that is set already. An
-- account without the right to do this has logs that never expire.
local function expire(key, bounds, milliseconds)
  local left = redis.pcall('PTTL', key)
  if type(left) == 'number' and left < milliseconds then
    redis.pcall('PEXPIRE', key, string.format('%.0f', milliseconds))
    redis.pcall('PEXPIRE', bounds, string.format('%.0f', milliseconds))
  end
end

-- If a log expires within half of so many milliseconds, let it expire after all of them. A log with
-- a ttl is left alone.
local function keep_alive(key, bounds, milliseconds)
  local left = redis.pcall('PTTL', key)
  if type(left) == 'number' and left >= 0 and left < milliseconds / 2
      and not redis.call('HGET', bounds, 'ttl') then
    expire(key, bounds, milliseconds)
  end
end

-- Publish what is said to the followers of a log. Returns an error, or nothing.
local function announce(publish, followers, said)
  if publish == '' then return end
  local heard = redis.pcall(publish, followers, said)
  return type(heard) == 'table' and heard.err
end
