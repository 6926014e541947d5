-- Sliding logs: a translation of src/rate_limit/decision/algorithm/sliding_log.rs. Follows
-- numbers.lua.
--
-- A log is a list. Its first element is a head of four doubles: the usage, the time at which the
-- log expires, the time of the newest entry, and the millisecond at which the key expires. The
-- entries follow, oldest first, each of two doubles: time and amount.
--
-- During a decision a log is a table: `used`, `till`, `newest` (0 if there is none) and `expires`;
-- `read`, the elements read until now; `first`, the index of the oldest entry that counts; `cut`,
-- the number of last elements that the new entry replaces; `at_now`, its amount. Only `log_write`
-- writes. that is of. Nothing is written before `log_write`.

local log_size = 32

local function log_none(key)
  return {
    key = key, used = 0, till = 0, newest = 0, expires = 0,
    read = {}, first = 1, cut = 0, at_now = 0, is_new = true, is_changed = false,
  }
end

-- Returns an entry, or nil after the last.
local function log_entry(log, place)
  if place >= #log.read and not log.is_new then
    local more = redis.call('LRANGE', log.key, #log.read, #log.read + log_size)
    for i = 1, #more do
      log.read[#log.read + 1] = more[i]
    end
  end
  local entry = log.read[place + 1]
  if entry and #entry == 16 then
    return struct.unpack('<dd', entry)
  end
end

-- sliding_log.rs: forget. Removes entries at or after this time.
local function log_cut(log, now)
  local from = -1
  while true do
    local later = redis.call('LRANGE', log.key, from - log_size, from)
    for i = #later, 1, -1 do
      if #later[i] ~= 16 then
        return
      end
      local at, amount = struct.unpack('<dd', later[i])
      if at < now then
        return
      end
      log.cut, log.at_now = log.cut + 1, log.at_now + amount
    end
    if #later <= log_size then
      return
    end
    from = from - #later
  end
end

-- Reads a log without the entries before the window. Returns an error if there is one.
local function log_open(key, window, now)
  local read = redis.pcall('LRANGE', key, 0, 4)
  if read.err then
    return nil, read
  end
  local log = log_none(key)
  log.is_held = read[1] ~= nil
  if not read[1] or #read[1] ~= 32 then
    return log
  end
  local used, till, newest, expires = struct.unpack('<dddd', read[1])
  local is_log = used >= 0 and used <= EXACT and newest >= 0 and newest < EXACT
  if not (is_log and till > now and till < EXACT and expires >= 0 and expires < EXACT) then
    return log
  end
  log.used, log.till, log.newest, log.expires = used, till, newest, expires
  log.read, log.is_new = read, false
  while true do
    local at, amount = log_entry(log, log.first)
    if not at or at + window > now then
      break
    end
    log.used, log.first = math.max(log.used - amount, 0), log.first + 1
  end
  if log.newest + window <= now then
    log.newest = 0
  elseif log.newest >= now then
    local is_later = log.newest > now
    log_cut(log, now)
    log.newest = now
    if is_later then
      log.till, log.is_changed = now + window, true
    end
  end
  return log
end

local function log_until(at, window, now)
  if at > 0 then
    return at + window - now
  end
  return 0
end

-- sliding_log.rs: freed_at. Returns nil if the cost never fits.
local function log_freed_at(log, limit, cost, now)
  if cost > limit then
    return
  end
  local surplus, place = log.used + cost - limit, log.first
  while true do
    local at, amount = log_entry(log, place)
    if not at or at >= now then
      return log.newest
    end
    surplus, place = surplus - amount, place + 1
    if surplus <= 0 then
      return at
    end
  end
end

-- sliding_log.rs: decide. Returns the verdict, the remaining tokens, the time to the reset, and the
-- receipt or the wait.
local function log_decide(log, limit, window, now, cost)
  local left = math.max(limit - log.used, 0)
  if cost <= left then
    local newest = cost > 0 and now or log.newest
    return 0, left - cost, log_until(newest, window, now), now + window
  end
  local reset = log_until(log.newest, window, now)
  local at = log_freed_at(log, limit, cost, now)
  if at then
    return 1, left, reset, log_until(at, window, now)
  end
  return 2, left, reset, 0
end

-- sliding_log.rs: record
local function log_record(log, window, now, cost)
  if cost > 0 then
    log.at_now, log.used = log.at_now + cost, log.used + cost
    log.newest, log.till, log.is_changed = now, now + window, true
  end
end

-- sliding_log.rs: charge
local function log_charge(log, limit, window, now, amount)
  local most = math.max(math.min(limit * 2, EXACT), log.used)
  log_record(log, window, now, math.min(log.used + amount, most) - log.used)
end

-- Returns the reason of a rejection by a log: the time at which it expires, the usage, and the time
-- at which the oldest entry leaves the window.
local function log_words(log, window, now)
  if log.used == 0 then
    return 0, 0, 0
  end
  local oldest = log_entry(log, log.first)
  if not oldest or oldest > now then
    oldest = now
  end
  return log.newest + window, log.used, oldest + window
end

-- Removes entries before the window. After a failure, a later call tries again.
local function log_tidy(log)
  if log.is_new and log.is_held then
    redis.call('DEL', log.key)
  elseif log.first > 1 then
    local head = struct.pack('<dddd', log.used, log.till, log.newest, log.expires)
    if not redis.pcall('LSET', log.key, log.first - 1, head).err then
      redis.call('LTRIM', log.key, log.first - 1, -1)
    end
  end
end

-- Writes the changes, and removes entries before the window. Returns an error if there is one.
local function log_write(log, now)
  if not log.is_changed then
    log_tidy(log)
    return
  end
  local now_millis, needed = math.floor(now / 1000), math.ceil(log.till / 1000)
  local moment
  if not (log.expires >= needed and log.expires > now_millis) then
    needed = math.max(needed, now_millis)
    log.expires = needed + math.max(1000, math.ceil((needed - now_millis) / 4))
    moment = string.format('%.0f', log.expires)
  end
  local head = struct.pack('<dddd', log.used, log.till, log.newest, log.expires)
  local entry = struct.pack('<dd', now, log.at_now)
  local key, written = log.key, nil
  -- A server without memory rejects the first command, so nothing changes.
  if log.is_new then
    if log.is_held then
      redis.call('DEL', key)
    end
    written = redis.pcall('RPUSH', key, head, entry)
  elseif log.cut > 0 then
    written = redis.pcall('LSET', key, -log.cut, entry)
  else
    written = redis.pcall('RPUSH', key, entry)
  end
  if type(written) == 'table' and written.err then
    return written
  end
  if not log.is_new then
    redis.call('LSET', key, log.first - 1, head)
    if log.first > 1 or log.cut > 1 then
      redis.call('LTRIM', key, log.first - 1, -math.max(log.cut, 1))
    end
  end
  if moment then
    redis.call('PEXPIREAT', key, moment)
  end
end

-- sliding_log.rs: refund. Returns an error if there is one.
local function log_refund(key, window, receipt, amount)
  local read = redis.pcall('LRANGE', key, 0, 0)
  if read.err then
    return read
  elseif not read[1] or #read[1] ~= 32 then
    return
  end
  local used, till, newest, expires = struct.unpack('<dddd', read[1])
  local at, low, high = receipt - window, 1, redis.call('LLEN', key) - 1
  if newest == at then
    low = high
  end
  -- The index of the first entry at or after the time.
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = redis.call('LINDEX', key, middle)
    if #entry == 16 and struct.unpack('<d', entry) < at then
      low = middle + 1
    else
      high = middle
    end
  end
  local entry = low > 0 and redis.call('LINDEX', key, low)
  if not entry or #entry ~= 16 then
    return
  end
  local then_at, had = struct.unpack('<dd', entry)
  if then_at ~= at then
    return
  end
  local back = math.min(amount, had)
  used = math.max(used - back, 0)
  if back == had and newest == at then
    local before = redis.call('LINDEX', key, low - 1)
    newest = #before == 16 and struct.unpack('<d', before) or 0
  end
  redis.call('LSET', key, 0, struct.pack('<dddd', used, till, newest, expires))
  if back < had then
    redis.call('LSET', key, low, struct.pack('<dd', at, had - back))
  else
    redis.call('LREM', key, -1, entry)
  end
end
