-- Takes a lease, if nobody holds it: src/store/redis/cache/store.rs.
-- KEYS: the lease. ARGV: number, token, for how many milliseconds.
-- Returns number, 1, or 0 and for how many milliseconds it is held.
if redis.call('SET', KEYS[1], ARGV[2], 'NX', 'PX', ARGV[3]) then
  return {ARGV[1], 1}
end
return {ARGV[1], 0, redis.call('PTTL', KEYS[1])}
