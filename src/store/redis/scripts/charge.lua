-- algorithm/mod.rs: owed
local function owed(limit, used, amount)
  local most = math.max(math.min(limit * 2, EXACT), used)
  return math.min(used + amount, most)
end

-- algorithm/mod.rs: charge, except for logs. Returns the new state.
local function charge(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, amount)
  if letter == 's' then
    local start, _, _, this, last = sliding_counts(n2, till, one, two, now)
    return sliding_state(n2, start, owed(n1, this, amount), last)
  elseif letter ~= 'b' and letter ~= 'l' and letter ~= 'q' then
    local ends, used = fixed_open(letter, n2, till, one, now)
    return fixed_state(ends, owed(n1, used, amount))
  end
  local micros, parts = bucket_missing(n2, n5, n6, till, one, two, now)
  local most_micros, most_parts = add(n2, n5, n6, n5, n6)
  if is_less(most_micros, most_parts, micros, parts) then
    most_micros, most_parts = micros, parts
  end
  local first = math.min(amount, n1)
  micros, parts = add(n2, micros, parts, times(n2, n3, n4, first))
  micros, parts = add(n2, micros, parts, times(n2, n3, n4, math.min(amount - first, n1)))
  if is_less(most_micros, most_parts, micros, parts) then
    micros, parts = most_micros, most_parts
  end
  return bucket_state(micros, parts, n5, n6, now)
end
