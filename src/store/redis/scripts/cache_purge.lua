-- Purges: src/store/redis/cache.rs.
-- KEYS: purges. ARGV: number, mode, channel, by what, 17 bytes each, how many are remembered at most.
-- Returns number.
local mode, targets, most = ARGV[2], ARGV[4], tonumber(ARGV[5])
redis.call('PUBLISH', ARGV[3], mode .. targets)
local now = time()
local at = math.max(now, latest(now) + 1)
for from = 1, #targets, 17 do
  redis.call('ZADD', purges, whole(at), mode .. targets:sub(from, from + 16))
end
-- What is forgotten of purges raises the floor: what they might have reached is dead.
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
