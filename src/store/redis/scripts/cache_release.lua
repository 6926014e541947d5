-- Gives a lease back, if it is the caller's own: src/store/redis/cache/store.rs.
-- KEYS: the lease. ARGV: number, token. Returns number.
if redis.call('GET', KEYS[1]) == ARGV[2] then
  redis.call('DEL', KEYS[1])
end
return {ARGV[1]}
