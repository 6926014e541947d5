-- Removes records that have ended: src/store/redis/api_key/store.rs.
-- KEYS: the records, the uses, the index of all, the index by end.
-- ARGV: number, time, the maximum number of records, the prefix of the per-owner indexes, channel.
-- Returns number, the number of removed records.
local records, uses, all, ends = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local due = redis.call('ZRANGEBYLEX', ends, '-', '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
for _, ended in ipairs(due) do
  local id = ended:sub(9)
  local old = redis.call('HGET', records, id)
  redis.call('PUBLISH', ARGV[5], id)
  redis.call('ZREM', ends, ended)
  if old then
    local place = old:sub(10, 17) .. id
    redis.call('ZREM', all, place)
    redis.call('ZREM', ARGV[4] .. old:sub(26, 57), place)
    redis.call('HDEL', records, id)
    redis.call('HDEL', uses, id)
  end
end
return {ARGV[1], #due}
