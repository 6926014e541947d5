-- Looks up an entry: src/store/redis/cache/store.rs.
-- KEYS: purges, the entries of a key.
-- ARGV: number, the expected `Vary` fields, the variant, the prefix of the keys of tokens.
-- Returns number, fence, and 'nothing' | 'novariant' | 'varies', fields | 'entry', stamp, key, 1 if
-- it was purged softly, its remaining time in milliseconds, head, body.
local entry, spec, variant, start = KEYS[2], ARGV[2], ARGV[3], ARGV[4]
local now = time()
local last, fence = latest(now), 0
-- If recent purges cannot be recorded, the fence is older than any purge, so that no fill is
-- stored.
if last < math.huge then
  fence = math.max(now, last + 1)
end

-- Reads head and body too, since nearly every entry is valid.
local kept = redis.call('HMGET', entry, 'v', 'm' .. variant, 'h' .. variant, 'b' .. variant)
if not kept[1] then
  return {ARGV[1], fence, 'nothing'}
elseif kept[1] ~= spec then
  return {ARGV[1], fence, 'varies', kept[1]}
elseif not kept[2] then
  return {ARGV[1], fence, 'novariant'}
end
local about = kept[2]
local ends, marks = tonumber(about:sub(33, 48)), about:sub(81)
if not ends or ends <= now or #marks == 0 then
  return {ARGV[1], fence, 'nothing'}
end

local names = {}
for at = 1, #marks, MARK_BYTES do
  names[#names + 1] = start .. marks:sub(at, at + TOKEN_NAME_BYTES - 1)
end
-- While the slot migrates, tokens may be on another node, which makes this a miss.
local tokens = redis.pcall('MGET', unpack(names))
local soft = 0
for number = 1, #names do
  local from = (number - 1) * MARK_BYTES + TOKEN_NAME_BYTES + 1
  local token, listed = tokens[number], marks:sub(from, from + 15)
  if token ~= listed then
    if not token or token:sub(1, 8) ~= listed:sub(1, 8) then
      return {ARGV[1], fence, 'nothing'}
    end
    soft = 1
  end
end
local left = math.floor((ends - now) / 1000)
return {ARGV[1], fence, 'entry', about:sub(1, 16), about:sub(49, 80), soft, left, kept[3], kept[4]}
