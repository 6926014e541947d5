-- Decides a request by all its policies at once, or charges what has been used already: a
-- translation of `settle` in src/rate_limit/charge.rs and of `charge` in src/rate_limit/policy.rs,
-- behind algorithms.lua.
--
-- KEYS[1]  the partition's hash: a field for each policy, named by its id, with three doubles; and
--          `x`, the moment in milliseconds at which the key expires
-- ARGV[1]  the number of the call
-- ARGV[2]  `t` to take, `d` to take and to tell the states that come of it, `p` to say only what
--          taking would, `c` to charge whatever is left, `r` to charge so and to tell the states
-- ARGV[3]  for each policy 74 bytes: id, letter, 1 if it only watches, cost, by what to divide
--          what is left to take as much ahead (0 for nothing), six numbers
-- returns  the number of the call, the time, 1 if admitted, and for each policy six numbers: the
--          verdict, what remains, how long to the reset, the receipt or the wait, what was taken
--          ahead, its receipt; if denied or to be told, then for each policy its state, three
--          numbers

-- Returns the state that a field holds; none if it holds anything else.
local function unpack_state(field)
  if field and #field == 24 then
    local till, one, two = struct.unpack('<ddd', field)
    if till >= 0 and till < EXACT and one >= 0 and one <= EXACT and two >= 0 and two <= EXACT then
      return till, one, two
    end
  end
  return 0, 0, 0
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local key, wish, charges = KEYS[1], ARGV[2], ARGV[3]
local count = #charges / 74

local fields = {}
for i = 1, count do
  fields[i] = string.sub(charges, i * 74 - 73, i * 74 - 66)
end
fields[count + 1] = 'x'
local held = redis.call('HMGET', key, unpack(fields))

local decided, admitted = {}, true
for i = 1, count do
  local letter, watches, cost, _, n1, n2, n3, n4, n5, n6 =
    struct.unpack('<c1Bdddddddd', charges, i * 74 - 65)
  local till, one, two = unpack_state(held[i])
  if wish == 'c' or wish == 'r' then
    decided[i] = { 0, 0, 0, 0, charge(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, cost) }
  else
    decided[i] = { decide(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, cost) }
  end
  if decided[i][1] ~= 0 and watches == 0 then
    admitted = false
  end
end

local answer = { ARGV[1], now, admitted and 1 or 0 }
local write, latest = {}, 0
for i = 1, count do
  local it = decided[i]
  local till, one, two = unpack_state(held[i])
  if not admitted and it[1] == 0 then
    -- Not charged after all: what the policy has left is what it had before.
    local letter, _, _, _, n1, n2, n3, n4, n5, n6 =
      struct.unpack('<c1Bdddddddd', charges, i * 74 - 65)
    it = { decide(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, 0) }
    decided[i] = it
  end
  for word = 1, 4 do
    answer[#answer + 1] = it[word]
  end
  local ahead, ahead_receipt = 0, 0
  if admitted and it[1] == 0 then
    local letter, _, _, divisor, n1, n2, n3, n4, n5, n6 =
      struct.unpack('<c1Bdddddddd', charges, i * 74 - 65)
    if divisor > 0 then
      ahead = math.floor(it[2] / divisor)
    end
    if ahead > 0 then
      it = { decide(letter, n1, n2, n3, n4, n5, n6, it[5], it[6], it[7], now, ahead) }
      ahead_receipt = it[4]
    end
  end
  answer[#answer + 1], answer[#answer + 2] = ahead, ahead_receipt
  local is_alive = till > now or it[5] > now
  if is_alive and (it[5] ~= till or it[6] ~= one or it[7] ~= two) then
    write[#write + 1] = fields[i]
    write[#write + 1] = struct.pack('<ddd', it[5], it[6], it[7])
    latest = math.max(latest, it[5])
  end
end

if not admitted or wish == 'd' or wish == 'r' then
  for i = 1, count do
    for word = 5, 7 do
      answer[#answer + 1] = decided[i][word]
    end
  end
end

if wish ~= 'p' and #write > 0 then
  -- The key outlives its states by a quarter, so that it is not moved on with each of them.
  local now_millis, needed = math.floor(now / 1000), math.ceil(latest / 1000)
  local expires = tonumber(held[count + 1] or 0)
  if expires < needed or expires <= now_millis then
    needed = math.max(needed, now_millis)
    expires = needed + math.max(1000, math.ceil((needed - now_millis) / 4))
    local moment = string.format('%.0f', expires)
    write[#write + 1] = 'x'
    write[#write + 1] = moment
    redis.call('HSET', key, unpack(write))
    redis.call('PEXPIREAT', key, moment)
  else
    redis.call('HSET', key, unpack(write))
  end
end
return answer
