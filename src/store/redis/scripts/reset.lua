-- Deletes the states of some policies.
--
-- KEYS     the partition's hash, as take.lua writes it, and a list for each sliding log
-- ARGV[1]  the number of the call
-- ARGV     the ids of the policies, from 2 on
-- returns  the number of the call

if #ARGV > 1 then
  redis.call('HDEL', KEYS[1], unpack(ARGV, 2))
end
for log = 2, #KEYS do
  redis.call('DEL', KEYS[log])
end
return { ARGV[1] }
