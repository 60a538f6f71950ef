-- The terms of an append, and how long a log lives. The hash with the bounds of a log has these
-- fields too: *ended*, the id of the entry that ended the log; *leased*, the time when its lease
-- runs out; *ttl*. Times are in microseconds.

-- The terms in ARGV behind its first *n*, of which most appends have none.
local function terms_of(n)
  return {
    new = ARGV[n + 1] == '1', of = ARGV[n + 2] or '', lease = tonumber(ARGV[n + 3]),
    ttl = tonumber(ARGV[n + 4]), end_frame = ARGV[n + 5] or '', end_token = ARGV[n + 6],
    if_lapsed = ARGV[n + 7] == '1', number = tonumber(ARGV[n + 8]),
  }
end

-- Why an entry may not be appended to *log*: 'refused', 'ended' or nil.
local function refusal_of(terms, log, last, ended, leased, control)
  if log == '' then return (terms.of ~= '' or terms.if_lapsed) and 'refused' or nil end
  local lapsed = leased and tonumber(leased) <= microseconds()
  local other = terms.of ~= '' and terms.of ~= log
  other = other or (terms.number and terms.number ~= last + 1)
  if terms.new or other or (terms.if_lapsed and not lapsed) then return 'refused' end
  if is_of(log, ended) and (terms.end_frame ~= '' or control == 0) then return 'ended' end
end

-- Let Redis delete the log *ttl* after now, or after its lease.
local function set_life(key, bounds)
  local leased, ttl = unpack(redis.call('HMGET', bounds, 'leased', 'ttl'))
  for _, each in ipairs({key, bounds}) do
    if ttl then
      local now = microseconds()
      local life = math.max(now, tonumber(leased or now)) - now + tonumber(ttl)
      redis.call('PEXPIRE', each, string.format('%.0f', math.max(1, math.ceil(life / 1000))))
    else
      redis.call('PERSIST', each)
    end
  end
end

local function set_time(bounds, field, time)
  redis.call('HSET', bounds, field, string.format('%.0f', time))
end

-- Grant what the terms ask beside the entry. The log ends with entry *last*, and has had *ttl*.
local function grant(terms, key, bounds, log, last, ttl)
  if terms.end_frame ~= '' then
    redis.call('HSET', bounds, 'ended', id(log, last))
    redis.call('HDEL', bounds, 'leased')
  elseif terms.lease then
    set_time(bounds, 'leased', microseconds() + terms.lease)
  end
  if terms.ttl then set_time(bounds, 'ttl', terms.ttl) end
  if terms.ttl or ttl then set_life(key, bounds) end
end
