-- Decides requests by all their policies atomically, or charges amounts that were already used: a
-- translation of `settle` in src/rate_limit/decision/charge.rs and of `charge` in
-- src/rate_limit/policy/policy.rs. Follows states.lua, decide.lua or charge.lua, and give_back.lua
-- for leases.
--
-- A group is a number of equal requests of one partition, decided one after another. An error in
-- one group is returned for that group only.
--
-- KEYS     for each group the partition's hash: a field for each policy, named by its id, with
--          three doubles; `x`, the time in milliseconds at which the key expires; and for each
--          instance with a lease a field `g`, id and instance, with three doubles: the number of
--          its latest call, the tokens granted to it, and their receipt. After the hash, a list for
--          each sliding log
-- ARGV[1]  the number of the call
-- ARGV     from 2 on for each group: `t` to take, `d` to take and to return the new states, `l` to
--          take and to lease, `p` to decide without charging, `c` to charge regardless of the
--          quota, `r` to charge so and to return the states; a byte: the number of requests; for
--          each policy 74 bytes: id, letter, 1 in shadow mode, cost, the divisor of the remaining
--          tokens that gives the lease (0 for none), six numbers; after `l`, which decides one
--          request: the instance, the number of this call, and for each policy the number of the
--          latest call whose reply the instance received, and the unspent tokens of it
-- returns  the number of the call, the time, and for each group an error or bytes; for each request
--          of it: 1 if admitted; for each policy six doubles: the verdict, the remaining tokens,
--          the time to the reset, the receipt or the wait, the leased tokens, their receipt; if
--          rejected or if states are to be returned, for each policy its state, three doubles: of a
--          sliding log the time at which it expires, its usage, and the time at which its oldest
--          entry leaves the window

-- Decides a group with one policy and no lease, the most common case.
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
  -- Written even if both have expired, since a clock that goes back would restore the old state.
  if till ~= before_till or one ~= before_one or two ~= before_two then
    failed = write_states(key, { field, pack('<ddd', till, one, two) }, till, held[2])
  end
  return failed or (times == 1 and answer[1] or table.concat(answer))
end

-- Returns true if a group has one policy without a log, is to be decided, and leases nothing: a
-- divisor of zero is eight zero bytes.
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
  -- The most common case, for which the functions below are not created.
  return answers
end

-- Decides one request by each policy. Returns true if all admit it.
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

-- Decides by a policy again, with this cost and state.
local function decide_more(it, till, one, two, cost)
  return decide(it[1], it[5], it[6], it[7], it[8], it[9], it[10], till, one, two, now, cost)
end

local keys_read = done
local function next_key()
  keys_read = keys_read + 1
  return KEYS[keys_read]
end

-- Returns to the state the tokens that were granted to the instance and that it does not hold: all
-- of a grant whose reply it did not receive, or the unspent tokens of the latest one that it
-- received. A call that a later one of the same instance overtook returns and leases nothing, since
-- its reply is unused.
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
  -- A later call must be recognizable as such if an earlier one may still arrive.
  it.grant = { number = lease.number, tokens = 0, receipt = 0 }
  it.grant.is_due = latest > 0 or received < lease.number - 1
end

-- Reads the instance and the number of a call that leases, nil for others.
local function read_lease(asked, count)
  if string.byte(asked) ~= 108 then
    return nil
  end
  local lease = {}
  lease.instance, lease.number = unpack_from('<c8d', asked, count * 74 + 3)
  return lease
end

-- Reads the policies of a request and their states. Also returns the field with the time at which
-- the key expires, or an error.
--
-- Of each: 1 letter, 2 shadow mode, 3 cost, 4 divisor, 5 to 10 numbers; 11 to 13 the state, 14 to
-- 16 the state after the request; 17 verdict, 18 remaining, 19 reset, 20 detail; `field` and `was`,
-- or a log; and for a lease `grant` and `grant_field`.
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

-- Adds the field of a grant to the fields to write. An instance without a lease has none.
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

-- Writes the fields that have changed. Returns an error if there is one.
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

-- Decides a group. Returns its reply.
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
        -- The request is rejected, so the policy has the same tokens left as before.
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
