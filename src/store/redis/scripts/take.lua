-- Decides a request by all its policies at once, or charges what has been used already: a
-- translation of `settle` in src/rate_limit/charge.rs and of `charge` in src/rate_limit/policy.rs,
-- behind decide.lua, or behind charge.lua.
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

-- Of each policy: the state that is held, none if it is anything else; by what to divide what is
-- left; and from the fifth on what was decided, the state that comes of it last.
local each, admitted = {}, true
for i = 1, count do
  local letter, watches, cost, divisor, n1, n2, n3, n4, n5, n6 =
    struct.unpack('<c1Bdddddddd', charges, i * 74 - 65)
  local till, one, two, field = 0, 0, 0, held[i]
  if field and #field == 24 then
    till, one, two = struct.unpack('<ddd', field)
    local is_state = till >= 0 and till < EXACT and one >= 0 and one <= EXACT
    if not (is_state and two >= 0 and two <= EXACT) then
      till, one, two = 0, 0, 0
    end
  end
  local it
  if wish == 'c' or wish == 'r' then
    it = {
      till, one, two, 0, 0, 0, 0, 0,
      charge(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, cost),
    }
  else
    it = {
      till, one, two, divisor,
      decide(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, cost),
    }
  end
  if it[5] ~= 0 and watches == 0 then
    admitted = false
  end
  each[i] = it
end

local answer = { ARGV[1], now, admitted and 1 or 0, 0, 0, 0, 0, 0, 0 }
local write, words, latest = { 'HSET', key, nil, nil }, 2, 0
for i = 1, count do
  local it = each[i]
  local till, one, two = it[1], it[2], it[3]
  if not admitted and it[5] == 0 then
    -- Not charged after all: what the policy has left is what it had before.
    local letter, _, _, _, n1, n2, n3, n4, n5, n6 =
      struct.unpack('<c1Bdddddddd', charges, i * 74 - 65)
    it[5], it[6], it[7], it[8], it[9], it[10], it[11] =
      decide(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, 0)
  end
  local then_till, then_one, then_two = it[9], it[10], it[11]
  local ahead, ahead_receipt = 0, 0
  if admitted and it[4] > 0 and it[5] == 0 then
    ahead = math.floor(it[6] / it[4])
    if ahead > 0 then
      local letter, _, _, _, n1, n2, n3, n4, n5, n6 =
      struct.unpack('<c1Bdddddddd', charges, i * 74 - 65)
    _, _, _, ahead_receipt, then_till, then_one, then_two =
        decide(letter, n1, n2, n3, n4, n5, n6, then_till, then_one, then_two, now, ahead)
    end
  end
  local at = i * 6 - 3
  answer[at + 1], answer[at + 2], answer[at + 3] = it[5], it[6], it[7]
  answer[at + 4], answer[at + 5], answer[at + 6] = it[8], ahead, ahead_receipt
  local is_alive = till > now or then_till > now
  if is_alive and (then_till ~= till or then_one ~= one or then_two ~= two) then
    write[words + 1] = fields[i]
    write[words + 2] = struct.pack('<ddd', then_till, then_one, then_two)
    words = words + 2
    latest = math.max(latest, then_till)
  end
end

if not admitted or wish == 'd' or wish == 'r' then
  local at = count * 6 + 3
  for i = 1, count do
    local it = each[i]
    answer[at + 1], answer[at + 2], answer[at + 3] = it[9], it[10], it[11]
    at = at + 3
  end
end

if wish ~= 'p' and words > 2 then
  -- The key outlives its states by a quarter, so that it is not moved on with each of them.
  local now_millis, needed = math.floor(now / 1000), math.ceil(latest / 1000)
  local expires = tonumber(held[count + 1] or 0)
  if expires < needed or expires <= now_millis then
    needed = math.max(needed, now_millis)
    expires = needed + math.max(1000, math.ceil((needed - now_millis) / 4))
    local moment = string.format('%.0f', expires)
    write[words + 1], write[words + 2] = 'x', moment
    redis.call(unpack(write, 1, words + 2))
    redis.call('PEXPIREAT', key, moment)
  else
    redis.call(unpack(write, 1, words))
  end
end
return answer
