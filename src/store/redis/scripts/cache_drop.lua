-- Deletes an entry that cannot be parsed: src/store/redis/cache/store.rs.
-- KEYS: the entries of a key. ARGV: number, the variant, stamp of the entry. Returns number.
local about = redis.call('HGET', KEYS[1], 'm' .. ARGV[2])
if about and about:sub(1, 16) == ARGV[3] then
  redis.call('UNLINK', KEYS[1])
end
return {ARGV[1]}
