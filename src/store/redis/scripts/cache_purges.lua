-- What has been purged, and the store's own time: the start of each script of the cache.
--
-- KEYS[1] is a sorted set of what was purged, with the time of its last purge in microseconds: a
-- mode, 'h' or 's', a kind, 'u' | 't' | 'p' | 'a', and a digest. 'f' is the floor: what was begun
-- up to that time is dead, for what was purged since is not known. A set that is gone, evicted or
-- lost with its server, comes back with a floor of now: so a purge is never forgotten, at worst
-- are answers.
local purges = KEYS[1]
local KEEP_MICROS = 8 * 86400 * 1000000

local function whole(number)
  return string.format('%016.0f', number)
end

local function time()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Returns the time of the latest purge, or of the floor.
local function latest(now)
  local last = redis.call('ZRANGE', purges, -1, -1, 'WITHSCORES')
  if last[2] then
    return tonumber(last[2])
  end
  local set = redis.pcall('ZADD', purges, whole(now), 'f')
  if type(set) == 'table' and set.err then
    -- No room for it: nothing lives, and nothing is taken in.
    return math.huge
  end
  redis.call('PEXPIRE', purges, KEEP_MICROS / 1000)
  return now
end

-- Returns whether one of these, 17 bytes each, was purged at this time or later.
local function purged(mode, since, targets)
  local names = {'f'}
  for at = 1, #targets, 17 do
    names[#names + 1] = mode .. targets:sub(at, at + 16)
  end
  for _, last in ipairs(redis.call('ZMSCORE', purges, unpack(names))) do
    if last and tonumber(last) >= since then
      return true
    end
  end
  return false
end
