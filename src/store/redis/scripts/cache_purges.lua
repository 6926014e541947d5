-- Recent purges and the time of the server, the start of each script of the cache.
--
-- KEYS[1] is a sorted set of recent purges by their times in microseconds. A member is a mode, 'h'
-- or 's', a kind, 'u' | 't' | 'p' | 'a', and a digest. Only fills in flight are compared with it.
-- 'f' is the floor, up to which purges may have been removed, so a fill that started before it is
-- rejected. A set that was evicted or lost starts again with the current time as its floor.
--
-- Stored entries do not depend on the set. Each name of an entry has a token, which is a separate
-- key: 8 random bytes, and 8 more that each soft purge replaces. An entry lists the tokens of its
-- names, and is valid while they exist. A hard purge deletes the token and needs no record that
-- outlives the entries. A token that was evicted or lost invalidates entries and never makes one
-- valid again.
local purges = KEYS[1]
local KEEP_MICROS = 3600 * 1000000
local TOKEN_NAME_BYTES = 23
local MARK_BYTES = TOKEN_NAME_BYTES + 16

local function whole(number)
  return string.format('%016.0f', number)
end

local function time()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Returns the time of the latest purge or of the floor; math.huge if the set cannot be written.
local function latest(now)
  local last = redis.call('ZRANGE', purges, -1, -1, 'WITHSCORES')
  if last[2] then
    return tonumber(last[2])
  end
  local set = redis.pcall('ZADD', purges, whole(now), 'f')
  if type(set) == 'table' and set.err then
    return math.huge
  end
  redis.call('PEXPIRE', purges, KEEP_MICROS / 1000)
  return now
end

-- Returns true if one of these names, 17 bytes each, was purged at this time or later.
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
