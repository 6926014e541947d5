-- Creates a record, or replaces a version by another one: src/store/redis/api_key/store.rs.
-- KEYS: the records, the index of all, the index by end, the index of the record's owner.
-- ARGV: number, id, record, the expected version or '', the prefix of the per-owner indexes,
-- channel, message; and '' '' '', or the maximum of keys of the owner, the maximum of records, the
-- time.
-- Returns number, 'kept' | 'missing' | 'conflict' | 'corrupt' | 'full', the number of subscribers.
local records, all, ends, for_owner = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local number, id, new, expected, owners = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local never = string.rep('\255', 8)

local old = redis.call('HGET', records, id)
if expected == '' and old then
  return {number, 'conflict'}
elseif expected ~= '' then
  if not old then
    return {number, 'missing'}
  elseif #old < 57 or old:byte(1) ~= 1 then
    return {number, 'corrupt'}
  elseif old:sub(2, 9) ~= expected then
    return {number, 'conflict'}
  end
end

-- Counts the owner's keys that have not ended. Few owners have enough keys that they must be read.
if ARGV[8] ~= '' then
  local most, most_records, now = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10]
  -- Compares bytes, since Lua compares strings by the locale of the server.
  local function has_ended(own)
    for at = 1, 8 do
      local end_byte, now_byte = own:byte(17 + at), now:byte(at)
      if end_byte ~= now_byte then
        return end_byte < now_byte
      end
    end
    return true
  end
  local total = redis.call('ZCARD', for_owner)
  if total >= most_records then
    return {number, 'full'}
  end
  local live, after = total, '-'
  while live >= most do
    local places = redis.call('ZRANGEBYLEX', for_owner, after, '+', 'LIMIT', 0, 500)
    if #places == 0 then
      return {number, 'full'}
    end
    after = '(' .. places[#places]
    local ids = {}
    for at, place in ipairs(places) do
      ids[at] = place:sub(9)
    end
    for _, own in ipairs(redis.call('HMGET', records, unpack(ids))) do
      if not own or #own < 57 or has_ended(own) then
        live = live - 1
      end
    end
  end
end

-- The first write: if it fails for a missing permission or memory, nothing changes.
local heard = redis.call('PUBLISH', ARGV[6], ARGV[7])
redis.call('HSET', records, id, new)
if old then
  local place = old:sub(10, 17) .. id
  redis.call('ZREM', all, place)
  redis.call('ZREM', owners .. old:sub(26, 57), place)
  redis.call('ZREM', ends, old:sub(18, 25) .. id)
end
local place = new:sub(10, 17) .. id
redis.call('ZADD', all, 0, place)
redis.call('ZADD', for_owner, 0, place)
if new:sub(18, 25) ~= never then
  redis.call('ZADD', ends, 0, new:sub(18, 25) .. id)
end
return {number, 'kept', heard}
