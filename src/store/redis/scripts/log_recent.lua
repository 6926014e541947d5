-- Walks a piece of a trail from its end: src/store/redis/access_log/store.rs.
-- KEYS: the stream. ARGV: number, where to begin, how many entries are looked at, how many are
-- wanted, the first and the last time that is asked for.
-- Returns number, where to go on or '', and of each entry its time and its text.
local wanted, since, til = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local piece = redis.call('XREVRANGE', KEYS[1], ARGV[2], '-', 'COUNT', ARGV[3])
local found, last = {}, ''
for _, entry in ipairs(piece) do
  local fields = entry[2]
  local at = tonumber(fields[4])
  if fields[1] == 'v' and fields[2] == '1' and at and at >= since and at <= til then
    found[#found + 1] = fields[4]
    found[#found + 1] = fields[6]
    if #found == wanted * 2 then
      return {ARGV[1], '', found}
    end
  end
end
if #piece == tonumber(ARGV[3]) then
  last = '(' .. piece[#piece][1]
end
return {ARGV[1], last, found}
