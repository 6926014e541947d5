-- Releases a lease if the caller holds it: src/store/redis/cache/store.rs.
-- KEYS: the lease. ARGV: number, token. Returns number.
if redis.call('GET', KEYS[1]) == ARGV[2] then
  redis.call('DEL', KEYS[1])
end
return {ARGV[1]}
