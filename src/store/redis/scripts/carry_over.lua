-- Carries over usage from previous policies: a translation of `Carry` in
-- src/rate_limit/policy/policy.rs. Follows states.lua and carry.lua.
--
-- KEYS     the partition's hash, as take.lua writes it; and for each sliding log the lists of the
--          policy and of the previous one
-- ARGV[1]  the number of the call
-- ARGV[2]  for each policy 121 bytes: id, previous id, letter, microseconds since the change, six
--          numbers, six numbers of the previous policy
-- returns  the number of the call

local key, asked, logs = KEYS[1], ARGV[2], 1

-- sliding_log.rs: carry. Returns nil or an error.
local function carry_log(log_key, was_key, window, was_window, changed)
  local was, failed = log_open(was_key, was_window, changed)
  if failed or was.used == 0 or now >= changed + window then
    return failed
  end
  local log
  log, failed = log_open(log_key, window, now)
  if failed then
    return failed
  end
  log_record(log, window, now, math.max(was.used - log.used, 0))
  return log_write(log, now)
end

-- Returns nil or an error.
local function carry_state(id, was_id, changed, letter, ...)
  local n1, n2, n3, n4, n5, n6, was1, was2, was3, was4, was5, was6 = ...
  local held = pcall('HMGET', key, id, was_id, 'x')
  if held.err then
    return held
  end
  local was_till, was_one, was_two = state_of(held[2])
  if was_till <= changed then
    return
  end
  local till, one, two = state_of(held[1])
  local then_till, then_one, then_two = carry(
    letter, n1, n2, n3, n4, n5, n6, till, one, two,
    was1, was2, was3, was4, was5, was6, was_till, was_one, was_two, changed, now
  )
  if then_till > now and (then_till ~= till or then_one ~= one or then_two ~= two) then
    return write_states(key, { id, pack('<ddd', then_till, then_one, then_two) }, then_till, held[3])
  end
end

for at = 1, #asked, 121 do
  local id, was_id, letter, elapsed, n1, n2, n3, n4, n5, n6, was1, was2, was3, was4, was5, was6 =
    unpack_from('<c8c8c1ddddddddddddd', asked, at)
  local changed, failed = math.max(now - elapsed, 0), nil
  if letter == 'g' then
    failed = carry_log(KEYS[logs + 1], KEYS[logs + 2], n2, was2, changed)
    logs = logs + 2
  else
    failed = carry_state(
      id, was_id, changed, letter, n1, n2, n3, n4, n5, n6, was1, was2, was3, was4, was5, was6
    )
  end
  if failed then
    return failed
  end
end
return { ARGV[1] }
