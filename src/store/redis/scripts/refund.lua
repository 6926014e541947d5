-- Refunds charges: a translation of `refund` in src/rate_limit/policy/policy.rs. Follows
-- give_back.lua.
--
-- KEYS     the partition's hash, as take.lua writes it, and a list for each sliding log
-- ARGV[1]  the number of the call
-- ARGV[2]  for each policy 73 bytes: id, letter, receipt, amount, six numbers
-- returns  the number of the call

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local key, refunds, logs = KEYS[1], ARGV[2], 1

for at = 1, #refunds, 73 do
  local id, letter, receipt, amount, n1, n2, n3, n4, n5, n6 =
    struct.unpack('<c8c1dddddddd', refunds, at)
  if letter == 'g' then
    logs = logs + 1
    local failed = log_refund(KEYS[logs], n2, receipt, amount)
    if failed then
      return failed
    end
  else
    local field = redis.call('HGET', key, id)
    -- A state that cannot be parsed receives no refund, and is left to take.lua.
    if field and #field == 24 then
      local till, one, two = struct.unpack('<ddd', field)
      till, one, two = refund(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, receipt, amount)
      if till > now then
        redis.call('HSET', key, id, struct.pack('<ddd', till, one, two))
      else
        redis.call('HDEL', key, id)
      end
    end
  end
end
return { ARGV[1] }
