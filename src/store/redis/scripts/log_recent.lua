-- Reads a piece of a log stream backwards: src/store/redis/access_log/store.rs.
-- KEYS: the stream. ARGV: number, the start, the number of entries to read, the maximum number of
-- results, the earliest and the latest time.
-- Returns number, the next start or '', and the time and text of each result.
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
