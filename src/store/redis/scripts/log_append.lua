-- Adds entries to a trail: src/store/redis/access_log/store.rs.
-- KEYS: the stream. ARGV: number, about how many entries it has at most, for how many milliseconds
-- it is kept after the last, and of each entry its time and its text. Returns number.
for at = 4, #ARGV, 2 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'v', '1', 't', ARGV[at], 'd', ARGV[at + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {ARGV[1]}
