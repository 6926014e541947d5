-- Purges entries: src/store/redis/cache/store.rs.
-- KEYS: purges, the tokens of the names.
-- ARGV: number, mode, channel, the names, 17 bytes each, the maximum number of recent purges,
-- 8 random bytes. Returns number.
local mode, targets, most, fresh = ARGV[2], ARGV[4], tonumber(ARGV[5]), ARGV[6]
redis.call('PUBLISH', ARGV[3], mode .. targets)
-- Stored entries: before the set, since a server without memory permits deletions and writes after
-- them.
for number = 2, #KEYS do
  if mode == 'h' then
    redis.call('UNLINK', KEYS[number])
  else
    local token = redis.call('GET', KEYS[number])
    if token then
      redis.call('SET', KEYS[number], token:sub(1, 8) .. fresh, 'KEEPTTL')
    end
  end
end
-- Fills in flight.
local now = time()
local at = math.max(now, latest(now) + 1)
for from = 1, #targets, 17 do
  redis.call('ZADD', purges, whole(at), mode .. targets:sub(from, from + 16))
end
-- Removed purges raise the floor, which rejects the fills that they might affect.
local floor = nil
if redis.call('ZREMRANGEBYSCORE', purges, '-inf', '(' .. whole(now - KEEP_MICROS)) > 0 then
  floor = now - KEEP_MICROS
end
local excess = redis.call('ZCARD', purges) - most
if excess > 0 then
  floor = tonumber(redis.call('ZRANGE', purges, excess - 1, excess - 1, 'WITHSCORES')[2])
  redis.call('ZREMRANGEBYRANK', purges, 0, excess - 1)
end
if floor then
  redis.call('ZADD', purges, 'GT', whole(floor), 'f')
end
redis.call('PEXPIRE', purges, KEEP_MICROS / 1000)
return {ARGV[1]}
