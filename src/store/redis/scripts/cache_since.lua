-- Checks whether an entry that is not stored yet was purged: src/store/redis/cache/store.rs.
-- KEYS: purges.
-- ARGV: number, fence of the lookup, the names of the entry, 17 bytes each.
-- Returns number, 1 if it was purged since, hard or softly.
local fence = tonumber(ARGV[2])
local last = latest(time())
local since = last == math.huge
if not since and last >= fence then
  since = purged('h', fence, ARGV[3]) or purged('s', fence, ARGV[3])
end
return {ARGV[1], since and 1 or 0}
