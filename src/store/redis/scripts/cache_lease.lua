-- Takes a lease unless another instance holds it: src/store/redis/cache/store.rs.
-- KEYS: the lease. ARGV: number, token, its duration in milliseconds.
-- Returns number, 1, or 0 and the remaining time of the current lease in milliseconds.
if redis.call('SET', KEYS[1], ARGV[2], 'NX', 'PX', ARGV[3]) then
  return {ARGV[1], 1}
end
return {ARGV[1], 0, redis.call('PTTL', KEYS[1])}
