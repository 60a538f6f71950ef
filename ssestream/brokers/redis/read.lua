-- Read the news of some logs.
--
-- The caller gives its known log, number and check for each channel; the log '*' is any log.
-- The script skips a channel if the newest entry of its log is at that position. The answer for
-- a channel has the check of the entry with the known number, which shows another past.

local limit, bytes, digits = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local asked_history, asked_age = ARGV[4], ARGV[5]
-- A log that somebody follows does not expire: it lives on for so many milliseconds.
local hold = tonumber(ARGV[6])

local function at(key, log, n)
  if n < 1 then return nil end
  return redis.call('XRANGE', key, id(log, n), id(log, n))[1]
end

local function first_of(key, log, last, info, history, age)
  if not info['first-entry'] then return last + 1 end
  local first = number(info['first-entry'])
  local lost, oldest = -1, -1
  if history and controls_in(info) == 0 then first = math.max(first, last - history + 1)
  elseif history then lost = messages_up_to(info['last-entry']) - history end
  if age and age ~= '' then oldest = microseconds() - age end
  if lost < 0 and oldest < 0 then return first end
  local function is_lost(n)
    local entry = at(key, log, n)
    return not entry or message(entry) <= lost or time(entry) <= oldest
  end
  local high, middle = last + 1, first
  while first < high do
    if is_lost(middle) then first = middle + 1 else high = middle end
    middle = math.floor((first + high) / 2)
  end
  return first
end

local found = {}
for i = 1, #KEYS / 2 do
  local key, bounds = KEYS[2 * i - 1], KEYS[2 * i]
  local known, after, check = ARGV[4 + 3 * i], tonumber(ARGV[5 + 3 * i]), ARGV[6 + 3 * i]
  local log, last, info = log_of(key)
  if hold > 0 and log ~= '' then keep_alive(key, bounds, hold) end
  local last_check = check_of(info['last-entry'], digits)
  local other = check ~= '' and last_check ~= '' and check ~= last_check
  if log ~= known or last ~= after or other then
    local history, age, ended, leased = fields_of(bounds, 'history', 'age', 'ended', 'leased')
    ended = is_of(log, ended) and number({ended}) or 0
    leased = leased and string.format('%.0f', tonumber(leased) - microseconds()) or ''
    if not history then history, age = tonumber(asked_history), asked_age end
    local here = ''
    if log ~= '' and (known == '*' or known == log) then
      here = check_of(at(key, log, after), digits)
    end
    if known ~= '*' and (known ~= log or after > last
        or (check ~= '' and here ~= '' and check ~= here)) then
      after = 0
    end
    local first, entries = first_of(key, log, last, info, history, age), {}
    local n, left = math.max(after + 1, first), limit
    while n <= last and left > 0 and bytes > 0 do
      local some = redis.call('XRANGE', key, id(log, n), id(log, last), 'COUNT', math.min(left, 8))
      if #some == 0 then break end
      for _, entry in ipairs(some) do
        if bytes <= 0 then break end
        entries[#entries + 1] = entry[1]
        entries[#entries + 1] = entry[2][2]
        entries[#entries + 1] = check_of(entry, digits)
        bytes, left, n = bytes - #entry[2][2], left - 1, number(entry) + 1
      end
    end
    found[#found + 1] = {i, log, first, last, entries, here, last_check, history or '', age or '',
      ended, leased}
    if limit > 0 and bytes <= 0 then break end
  end
end
return found
