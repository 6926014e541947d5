-- Looks an answer up: src/store/redis/cache.rs.
-- KEYS: purges, the answers of a key.
-- ARGV: number, what they are expected to vary by, the variant.
-- Returns number, fence, and 'nothing' | 'novariant' | 'varies', names | 'entry', stamp, key, 1 if it
-- was purged softly, for how many more milliseconds it is kept, head, body.
local entry, spec, variant = KEYS[2], ARGV[2], ARGV[3]
local now = time()
local last = latest(now)
if last == math.huge then
  return {ARGV[1], 0, 'nothing'}
end
local fence = math.max(now, last + 1)

local kept = redis.call('HMGET', entry, 'v', 'm' .. variant)
if not kept[1] then
  return {ARGV[1], fence, 'nothing'}
elseif kept[1] ~= spec then
  return {ARGV[1], fence, 'varies', kept[1]}
elseif not kept[2] then
  return {ARGV[1], fence, 'novariant'}
end
local about = kept[2]
local made, ends = tonumber(about:sub(17, 32)), tonumber(about:sub(33, 48))
local targets = about:sub(81)
local soft = 0
if not made or not ends or ends <= now then
  return {ARGV[1], fence, 'nothing'}
elseif last >= made then
  if purged('h', made, targets) then
    return {ARGV[1], fence, 'nothing'}
  elseif purged('s', made, targets) then
    soft = 1
  end
end
local parts = redis.call('HMGET', entry, 'h' .. variant, 'b' .. variant)
local left = math.floor((ends - now) / 1000)
return {ARGV[1], fence, 'entry', about:sub(1, 16), about:sub(49, 80), soft, left, parts[1], parts[2]}
