-- Returns the record of a key: src/store/redis/api_key/store.rs.
-- KEYS: the records. ARGV: number, id. Returns number, record or nil.
return {ARGV[1], redis.call('HGET', KEYS[1], ARGV[2])}
