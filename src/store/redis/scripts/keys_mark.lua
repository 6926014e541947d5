-- Asks all who listen to say that they have heard: src/store/redis/api_key/receipts.rs.
-- KEYS: the receipts. ARGV: number, channel, message. Returns number, how many listen here.
return {ARGV[1], redis.call('PUBLISH', ARGV[2], ARGV[3])}
