-- Replaces the head of an answer: src/store/redis/cache.rs.
-- KEYS: purges, the answers of a key.
-- ARGV: number, fence, stamp of the answer, the variant, the key, by what it is purged, for how many
-- milliseconds it is kept, head.
-- Returns number, 1 if it was replaced.
local entry, fence, variant, keep = KEYS[2], tonumber(ARGV[2]), ARGV[4], tonumber(ARGV[7])
local now = time()
local about = redis.call('HGET', entry, 'm' .. variant)
if not about or about:sub(1, 16) ~= ARGV[3] or tonumber(about:sub(33, 48)) <= now then
  return {ARGV[1], 0}
elseif latest(now) >= fence and purged('h', fence, ARGV[6]) then
  return {ARGV[1], 0}
end
local stamp = math.max(now, tonumber(about:sub(1, 16)) + 1)
about = whole(stamp) .. whole(fence) .. whole(now + keep * 1000) .. ARGV[5] .. ARGV[6]
redis.call('HSET', entry, 'm' .. variant, about, 'h' .. variant, ARGV[8])
redis.call('PEXPIRE', entry, math.max(keep, redis.call('PTTL', entry)))
redis.call('PEXPIRE', purges, KEEP_MICROS / 1000)
return {ARGV[1], 1}
