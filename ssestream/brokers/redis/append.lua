-- Append one entry to a log, once, on its terms (see terms.lua).
--
-- A try without an answer may have run, or may still run later: Redis also runs commands from a
-- closed connection, and may run commands from a newer connection first. Therefore each try
-- after the first looks for its token in the newest entries, and sets a mark for earlier tries
-- that run late.

local key, mark, bounds = KEYS[1], KEYS[2], KEYS[3]
local frame, token, again, control = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local asked_history, asked_age, usual, controls = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])

local terms = terms_of(8)
local history, age, ended, leased, ttl =
  unpack(redis.call('HMGET', bounds, 'history', 'age', 'ended', 'leased', 'ttl'))
local function answer(added) return {added, history, age} end

local done = redis.call('GET', mark)
if done then return answer(done) end

local log, last, info = log_of(key)
if again == '1' then
  for n = last, math.max(last - 9999, 1), -100 do
    local newest = redis.call('XREVRANGE', key, id(log, n), id(log, math.max(n - 99, 1)))
    if #newest == 0 then break end
    for _, entry in ipairs(newest) do
      if entry[2][6] == token then return answer(entry[1]) end
    end
  end
end

local refusal = refusal_of(terms, log, ended, leased, control)
if refusal then return {refusal, history, age} end

-- A request for more widens the bounds of the log. A request for less changes nothing.
local function is_wider(asked, own)
  return asked ~= '' and own ~= '' and tonumber(asked) > tonumber(own)
end
if not history or log == '' then
  history, age = asked_history ~= '' and asked_history or usual, asked_age
  -- Somebody may have deleted the entries of an earlier log, but not these.
  if ended or leased or ttl then redis.call('DEL', bounds) end
  ttl = false
  redis.call('HSET', bounds, 'history', history, 'age', age)
elseif is_wider(asked_history, history) or is_wider(asked_age, age) then
  if is_wider(asked_history, history) then history = asked_history end
  if is_wider(asked_age, age) then age = asked_age end
  redis.call('HSET', bounds, 'history', history, 'age', age)
end

local now = microseconds()
if log == '' then log = string.format('%.0f', now) end
local before = info['last-entry'] and messages_up_to(info['last-entry']) or 0
local most = history + math.min(controls_in(info) + control, controls)
local added = redis.call('XADD', key, 'MAXLEN', '~', string.format('%.0f', most), id(log, last + 1),
  'f', frame, 't', string.format('%.0f', now), 'k', token,
  'm', string.format('%.0f', before + 1))
if again == '1' then redis.call('SET', mark, added, 'EX', 300) end
if terms.end_frame ~= '' and terms.end_frame ~= frame then
  local m = control == 1 and before + 1 or before + 2
  redis.call('XADD', key, id(log, last + 2),
    'f', terms.end_frame, 't', string.format('%.0f', now), 'k', terms.end_token,
    'm', string.format('%.0f', m))
  last = last + 1
end
grant(terms, key, bounds, log, last + 1, ttl)

-- If the oldest entry is too old, remove it and up to 19 more entries that are too old.
if age ~= '' and info['first-entry'] then
  local oldest = now - age
  if tonumber(info['first-entry'][2][4]) <= oldest then
    local old = 0
    for _, entry in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', 20)) do
      if tonumber(entry[2][4]) <= oldest then old = old + 1 end
    end
    redis.call('XTRIM', key, 'MAXLEN', redis.call('XLEN', key) - old)
  end
end
return answer(added)
