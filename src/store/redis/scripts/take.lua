-- Decides requests by all their policies at once, or charges amounts that were used already: a
-- translation of `settle` in src/rate_limit/decision/charge.rs and of `charge` in src/rate_limit/policy/policy.rs,
-- behind states.lua and decide.lua or charge.lua, and behind give_back.lua for leases.
--
-- Each group is a number of equal requests of one partition, decided one after the other. An error in
-- one group is returned for that group alone.
--
-- KEYS     of each group the partition's hash: a field for each policy, named by its id, with three
--          doubles; `x`, the time in milliseconds at which the key expires; and for each instance that
--          leases a field `g`, id and instance, with three doubles: the number of its latest question,
--          the tokens that it was granted, and their receipt. Behind the hash a list for each sliding
--          log
-- ARGV[1]  the number of the call
-- ARGV     then for each group: `t` to take, `d` to take and to return the new states, `l` to take and
--          to lease, `p` to decide without charging, `c` to charge whatever is left, `r` to charge so
--          and to return the states; a byte: the number of requests; for each policy 74 bytes: id,
--          letter, 1 in shadow mode, cost, the divisor of the remaining tokens that gives the lease (0
--          for none), six numbers; and behind `l`, which decides one request: the instance, the number
--          of this question, and for each policy the number of the latest question whose reply the
--          instance received, and the tokens of it that are not spent
-- returns  the number of the call, the time, and for each group an error or bytes; for each request
--          of it: 1 if admitted; for each policy six doubles: the verdict, the remaining tokens, the
--          time to the reset, the receipt or the wait, the tokens leased, their receipt; if rejected or
--          if states are to be returned, then for each policy its state, three doubles: of a sliding
--          log the time at which it is empty, its length, and the time at which its oldest entry leaves

-- Decides a group that has one policy, of which nothing is taken ahead: the short way of most.
local function decide_one(key, asked)
  local wish, times, field, letter, watches, cost, _, n1, n2, n3, n4, n5, n6 =
    unpack_from('<BBc8c1Bdddddddd', asked)
  local held = pcall('HMGET', key, field, 'x')
  if held.err then
    return held
  end
  local before_till, before_one, before_two = state_of(held[1])
  local till, one, two = before_till, before_one, before_two
  local answer = {}
  for time = 1, times do
    local verdict, left, reset, detail, then_till, then_one, then_two =
      decide(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, cost)
    local admitted = (verdict == 0 or watches == 1) and 1 or 0
    if admitted == 1 and wish ~= 100 then
      answer[time] = pack('<Bdddddd', 1, verdict, left, reset, detail, 0, 0)
    else
      answer[time] = pack(
        '<Bddddddddd', admitted, verdict, left, reset, detail, 0, 0, then_till, then_one, then_two
      )
    end
    if wish ~= 112 then
      till, one, two = then_till, then_one, then_two
    end
  end
  local failed
  -- Also where both are over: a clock that goes back would revive what was forgotten.
  if till ~= before_till or one ~= before_one or two ~= before_two then
    failed = write_states(key, { field, pack('<ddd', till, one, two) }, till, held[2])
  end
  return failed or (times == 1 and answer[1] or table.concat(answer))
end

-- Returns whether a group has one policy which keeps no log, is to be decided, and takes nothing
-- ahead: a divisor of zero is eight zero bytes.
local function is_plain(asked)
  if #asked ~= 76 or string.byte(asked, 28) ~= 0 then
    return false
  end
  local wish = string.byte(asked)
  return wish ~= 99 and wish ~= 114 and string.byte(asked, 11) ~= 103
end

local answers, last = { ARGV[1], now }, #ARGV - 1
local done = 0
while done < last and is_plain(ARGV[done + 2]) do
  done = done + 1
  answers[done + 2] = decide_one(KEYS[done], ARGV[done + 1])
end
if done == last then
  -- As nearly always. What follows need not be made.
  return answers
end

-- Decides one request by each policy, and returns whether all admit it.
local function decide_each(each, charges)
  local admitted = true
  for i = 1, #each do
    local it = each[i]
    if it.log and charges then
      it[17], it[18], it[19], it[20] = 0, 0, 0, 0
      log_charge(it.log, it[5], it[6], now, it[3])
    elseif it.log then
      it[17], it[18], it[19], it[20] = log_decide(it.log, it[5], it[6], now, it[3])
    elseif charges then
      it[17], it[18], it[19], it[20] = 0, 0, 0, 0
      it[14], it[15], it[16] = charge(
        it[1], it[5], it[6], it[7], it[8], it[9], it[10], it[11], it[12], it[13], now, it[3]
      )
    else
      it[17], it[18], it[19], it[20], it[14], it[15], it[16] = decide(
        it[1], it[5], it[6], it[7], it[8], it[9], it[10], it[11], it[12], it[13], now, it[3]
      )
    end
    if it[17] ~= 0 and it[2] == 0 then
      admitted = false
    end
  end
  return admitted
end

-- Decides again by a policy: this much, on this state.
local function decide_more(it, till, one, two, cost)
  return decide(it[1], it[5], it[6], it[7], it[8], it[9], it[10], till, one, two, now, cost)
end

local keys_read = done
local function next_key()
  keys_read = keys_read + 1
  return KEYS[keys_read]
end

-- Returns to the state the tokens that the instance was granted and does not hold: all of a grant whose
-- reply it never received, or the unspent tokens of the latest one that it received. A question that a
-- later one of the same instance overtook returns and leases nothing, as nobody receives its reply.
local function return_grant(it, held, lease, received, unspent)
  local latest, tokens, receipt = state_of(held)
  if latest >= lease.number then
    it[4] = 0
    return
  end
  local amount = 0
  if latest > received then
    amount = tokens
  elseif latest == received then
    amount = math.min(tokens, unspent)
  end
  if amount > 0 then
    it[11], it[12], it[13] = refund(
      it[1], it[5], it[6], it[7], it[8], it[9], it[10], it[11], it[12], it[13], now, receipt, amount
    )
  end
  -- A later question must be known as such if an earlier one may still arrive.
  it.grant = { number = lease.number, tokens = 0, receipt = 0 }
  it.grant.is_due = latest > 0 or received < lease.number - 1
end

-- Reads the instance and the number of a question for a lease; nothing of any other.
local function read_lease(asked, count)
  if string.byte(asked) ~= 108 then
    return nil
  end
  local lease = {}
  lease.instance, lease.number = unpack_from('<c8d', asked, count * 74 + 3)
  return lease
end

-- Reads the policies of a request, and what is stored of them. Returns also the field with the time at
-- which the key expires, or an error.
--
-- Of each: 1 letter, 2 shadow mode, 3 cost, 4 divisor, 5 to 10 numbers; 11 to 13 the state, 14 to 16
-- the state after the request; 17 verdict, 18 remaining, 19 reset, 20 detail; `field` and `was`, or a
-- log; and of a lease `grant`, and `grant_field`.
local function read_each(key, asked, count)
  local each, fields, words = {}, {}, 0
  local lease = read_lease(asked, count)
  for i = 1, count do
    local it = { unpack_from('<c1Bdddddddd', asked, i * 74 - 63) }
    each[i] = it
    if it[1] == 'g' then
      it.log = next_key()
    else
      words = words + 1
      it.field, fields[words] = words, string.sub(asked, i * 74 - 71, i * 74 - 64)
      if lease then
        words = words + 1
        it.grant_field, fields[words] = words, 'g' .. fields[words - 1] .. lease.instance
      end
    end
  end
  local held = {}
  if words > 0 then
    fields[words + 1] = 'x'
    held = pcall('HMGET', key, unpack(fields))
    if held.err then
      return nil, held
    end
  end
  for i = 1, count do
    local it = each[i]
    if it.log then
      local log, failed = log_open(it.log, it[6], now)
      if failed then
        return nil, failed
      end
      it.log, it[11], it[12], it[13] = log, 0, 0, 0
    else
      it[11], it[12], it[13] = state_of(held[it.field])
      it.field, it.was = fields[it.field], { it[11], it[12], it[13] }
      if lease then
        local received, unspent = unpack_from('<dd', asked, count * 74 + i * 16 + 3)
        return_grant(it, held[it.grant_field], lease, received, unspent)
        it.grant_field = fields[it.grant_field]
      end
    end
  end
  return each, held[words + 1]
end

-- Adds the field of a grant to those that are written. An instance that leases no more has none.
local function write_grant(key, it, write)
  local words, grant = #write, it.grant
  if not grant or not grant.is_due then
    return nil
  elseif it[4] >= EXACT then
    local gone = pcall('HDEL', key, it.grant_field)
    return type(gone) == 'table' and gone
  end
  write[words + 1] = it.grant_field
  write[words + 2] = pack('<ddd', grant.number, grant.tokens, grant.receipt)
end

-- Writes the fields that changed. Returns an error if there is one.
local function write_each(key, each, expires)
  local write, words, latest, failed = {}, 0, 0, nil
  for i = 1, #each do
    local it = each[i]
    local before, till, one, two = it.was, it[11], it[12], it[13]
    if before and (till ~= before[1] or one ~= before[2] or two ~= before[3]) then
      write[words + 1], write[words + 2] = it.field, pack('<ddd', till, one, two)
      latest = math.max(latest, till)
    end
    failed = failed or write_grant(key, it, write)
    words = #write
  end
  failed = failed or (words > 0 and write_states(key, write, latest, expires))
  for i = 1, #each do
    failed = failed or (each[i].log and log_write(each[i].log, now))
  end
  return failed
end

-- Decides a group. Returns what is answered to it.
local function decide_group(asked)
  local wish, times = string.byte(asked, 1, 2)
  local charges = wish == 99 or wish == 114
  local tells, peeks = wish == 100 or wish == 114, wish == 112
  local key, count = next_key(), (#asked - 2) / 74
  if wish == 108 then
    count = (#asked - 18) / 90
  end
  local each, expires = read_each(key, asked, count)
  if not each then
    return expires
  end

  local answer, pieces = {}, 0
  for time = 1, times do
    local admitted = decide_each(each, charges)
    pieces = pieces + 1
    answer[pieces] = admitted and '\1' or '\0'
    for i = 1, count do
      local it = each[i]
      local log, ahead, receipt = it.log, 0, 0
      if not admitted and it[17] == 0 then
        -- Not charged after all: what the policy has left is what it had before.
        if log then
          it[17], it[18], it[19], it[20] = log_decide(log, it[5], it[6], now, 0)
        else
          it[17], it[18], it[19], it[20], it[14], it[15], it[16] =
            decide_more(it, it[11], it[12], it[13], 0)
        end
      elseif log then
        if it[17] == 0 and not peeks and not charges then
          log_record(log, it[6], now, it[3])
        end
      elseif it[4] > 0 and it[17] == 0 then
        ahead = math.floor(it[18] / it[4])
        if ahead > 0 then
          local _
          _, _, _, receipt, it[14], it[15], it[16] =
            decide_more(it, it[14], it[15], it[16], ahead)
          it.grant = { number = it.grant.number, tokens = ahead, receipt = receipt, is_due = true }
        end
      end
      pieces = pieces + 1
      answer[pieces] = pack('<dddddd', it[17], it[18], it[19], it[20], ahead, receipt)
    end
    if not admitted or tells then
      for i = 1, count do
        local it = each[i]
        if it.log then
          it[14], it[15], it[16] = log_words(it.log, it[6], now)
        end
        pieces = pieces + 1
        answer[pieces] = pack('<ddd', it[14], it[15], it[16])
      end
    end
    if not peeks then
      for i = 1, count do
        local it = each[i]
        it[11], it[12], it[13] = it[14], it[15], it[16]
      end
    end
  end
  return not peeks and write_each(key, each, expires) or table.concat(answer)
end

for at = done + 1, last do
  answers[at + 2] = decide_group(ARGV[at + 1])
end
return answers
