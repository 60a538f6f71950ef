-- Append one entry to a log, once, on its terms (see terms.lua).
--
-- A try without an answer may have run, or may still run later: Redis also runs commands from a
-- closed connection, and may run commands from a newer connection first. Therefore each try
-- after the first looks for its token in the newest entries, and sets a mark for earlier tries
-- that run late.
--
-- The script also publishes the new position to the followers of the channel, with the frame if
-- it has at most so many bytes: see ``announcement.py``. Publishing may fail, and the entry is
-- stored nevertheless; the answer then has the error.

local key, mark, bounds = KEYS[1], KEYS[2], KEYS[3]
local frame, token, again, control = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local asked_history, asked_age, usual, controls = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local publish, followers, most_bytes = ARGV[9], ARGV[10], tonumber(ARGV[11])
local check, grace = ARGV[12], tonumber(ARGV[13])

local terms = terms_of(13)
local history, age, ended, leased, ttl =
  fields_of(bounds, 'history', 'age', 'ended', 'leased', 'ttl')
age = age or ''
local function answer(added, failure) return {added, history, age, failure or ''} end

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

local refusal = refusal_of(terms, log, last, ended, leased, control)
if refusal then return answer(refusal) end

-- A request for more widens the bounds of the log. A request for less changes nothing.
local function is_wider(asked, own)
  return asked ~= '' and own ~= '' and tonumber(asked) > tonumber(own)
end
if not history or log == '' then
  history, age = asked_history ~= '' and asked_history or usual, asked_age
  -- Somebody may have deleted the entries of an earlier log, but not these.
  if ended or leased or ttl then redis.call('DEL', bounds) end
  ended, leased, ttl = false, false, false
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
local before_number = last
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
  if time(info['first-entry']) <= oldest then
    local old = 0
    for _, entry in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', 20)) do
      if time(entry) <= oldest then old = old + 1 end
    end
    redis.call('XTRIM', key, 'MAXLEN', redis.call('XLEN', key) - old)
  end
end
if age ~= '' and not (terms.ttl or ttl) then expire(key, bounds, age / 1000 + grace) end

-- The followers read the log itself for what an announcement does not say: that the log has ended.
if terms.end_frame ~= '' or is_of(log, ended) then most_bytes = -1 end
local previous = info['last-entry']
local follows = previous and number(previous) == before_number and previous[2][6]
local said = string.format('%s %.0f %s %s %s %s %s', added,
  info['first-entry'] and number(info['first-entry']) or before_number + 1, check,
  follows and check_of(previous, #check) or '', history, age, terms.lease and string.format('%.0f', terms.lease)
    or leased and string.format('%.0f', tonumber(leased) - now) or '')
if #frame <= most_bytes then said = said .. '\n' .. frame end
return answer(added, announce(publish, followers, said))
