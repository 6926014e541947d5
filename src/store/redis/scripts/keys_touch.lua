-- Adds uses to the counts of keys: src/store/redis/api_key/store.rs.
-- KEYS: the records, the uses. ARGV: number, and for each use an id, a time and a count.
-- Returns number.
for at = 2, #ARGV, 3 do
  local id, last, uses = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if redis.call('HEXISTS', KEYS[1], id) == 1 then
    local old = redis.call('HGET', KEYS[2], id)
    local old_last, old_uses = string.match(old or '', '^(%d+) (%d+)$')
    if old_last then
      last = math.max(last, tonumber(old_last))
      uses = math.min(uses + tonumber(old_uses), 2 ^ 53)
    end
    redis.call('HSET', KEYS[2], id, string.format('%.0f %.0f', last, uses))
  end
end
return {ARGV[1]}
