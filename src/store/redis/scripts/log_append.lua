-- Appends entries to a log stream: src/store/redis/access_log/store.rs.
-- KEYS: the stream. ARGV: number, its approximate maximum length, its retention after the last
-- entry in milliseconds, and the time and text of each entry. Returns number.
for at = 4, #ARGV, 2 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'v', '1', 't', ARGV[at], 'd', ARGV[at + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {ARGV[1]}
