-- Acknowledges a change: src/store/redis/api_key/receipts.rs.
-- KEYS: the acknowledgments. ARGV: number. Returns number.
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], 60000)
return {ARGV[1]}
