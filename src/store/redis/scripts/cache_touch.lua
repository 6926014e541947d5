-- Replaces the head of an entry: src/store/redis/cache/store.rs.
-- KEYS: purges, the entries of a key, the tokens of the names.
-- ARGV: number, fence, stamp of the entry, the variant, the key, its names, 17 bytes each, its
-- retention in milliseconds, head, 8 random bytes.
-- Returns number, 1 if it was replaced.
local entry, fence, variant, keep = KEYS[2], tonumber(ARGV[2]), ARGV[4], tonumber(ARGV[7])
local targets, fresh = ARGV[6], ARGV[9]
local now = time()
local about = redis.call('HGET', entry, 'm' .. variant)
if not about or about:sub(1, 16) ~= ARGV[3] or tonumber(about:sub(33, 48)) <= now then
  return {ARGV[1], 0}
end
local last = latest(now)
if last == math.huge or (last >= fence and purged('h', fence, targets)) then
  return {ARGV[1], 0}
end
local tokens, marks = read_tokens(fresh, last >= fence and purged('s', fence, targets))
local stamp = math.max(now, tonumber(about:sub(1, 16)) + 1)
about = whole(stamp) .. whole(fence) .. whole(now + keep * 1000) .. ARGV[5] .. marks
redis.call('HSET', entry, 'm' .. variant, about, 'h' .. variant, ARGV[8])
renew_tokens(tokens, fresh, keep)
redis.call('PEXPIRE', entry, math.max(keep, redis.call('PTTL', entry)))
redis.call('PEXPIRE', purges, KEEP_MICROS / 1000)
return {ARGV[1], 1}
