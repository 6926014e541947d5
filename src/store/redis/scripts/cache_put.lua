-- Stores an entry: src/store/redis/cache/store.rs.
-- KEYS: purges, the entries of a key, the tokens of the names.
-- ARGV: number, fence, its `Vary` fields, the variant, the key, its names, 17 bytes each, its
-- retention in milliseconds, the maximum number of variants, head, body, 8 random bytes.
-- Returns number, 'stored' | 'purged'.
--
-- Hash fields: v the `Vary` fields, o the variants, the latest first, and for each variant h its
-- head, b its body and m its metadata: stamp, fence and end in 16 digits each, the key, and its
-- names with their tokens.
local entry, fence, spec, variant = KEYS[2], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local targets, keep, most, fresh = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[11]
local now = time()
local last = latest(now)
if last == math.huge or (last >= fence and purged('h', fence, targets)) then
  return {ARGV[1], 'purged'}
end
local tokens, marks = read_tokens(fresh, last >= fence and purged('s', fence, targets))

local old = redis.call('HMGET', entry, 'v', 'o', 'm' .. variant)
if old[1] and old[1] ~= spec then
  redis.call('UNLINK', entry)
  old = {}
end
local order, gone, count = variant, {}, 1
for at = 1, #(old[2] or ''), 16 do
  local other = old[2]:sub(at, at + 15)
  if other ~= variant and count < most then
    order = order .. other
    count = count + 1
  elseif other ~= variant then
    gone[#gone + 1] = 'm' .. other
    gone[#gone + 1] = 'h' .. other
    gone[#gone + 1] = 'b' .. other
  end
end
local stamp = now
if old[3] then
  stamp = math.max(now, (tonumber(old[3]:sub(1, 16)) or 0) + 1)
end
local about = whole(stamp) .. whole(fence) .. whole(now + keep * 1000) .. ARGV[5] .. marks
-- The first write: a server without memory rejects it, and the older entry remains.
redis.call('HSET', entry, 'v', spec, 'o', order, 'm' .. variant, about,
  'h' .. variant, ARGV[9], 'b' .. variant, ARGV[10])
renew_tokens(tokens, fresh, keep)
if #gone > 0 then
  redis.call('HDEL', entry, unpack(gone))
end
if count > 1 then
  keep = math.max(keep, redis.call('PTTL', entry))
end
redis.call('PEXPIRE', entry, keep)
redis.call('PEXPIRE', purges, KEEP_MICROS / 1000)
return {ARGV[1], 'stored'}
