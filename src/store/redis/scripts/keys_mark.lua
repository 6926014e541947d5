-- Requests an acknowledgment from all subscribers: src/store/redis/api_key/receipts.rs.
-- KEYS: the acknowledgments. ARGV: number, channel, message. Returns number, subscribers of this
-- node.
return {ARGV[1], redis.call('PUBLISH', ARGV[2], ARGV[3])}
