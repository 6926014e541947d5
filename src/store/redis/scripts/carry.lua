-- algorithm/mod.rs: carry, except for logs. `was1` to `was6` and `was_till` to `was_two` are the
-- numbers and the state of the previous policy. Returns the new state.

-- fixed_window.rs: converted, and worse
local function fixed_carry(letter, window, till, one, was, was_till, was_one, changed, now)
  local ends
  if was_till <= changed then
    return till, one, 0
  elseif letter == 'a' then
    ends = changed + muldiv_up(math.min(was_till - changed, was), window, was)
  else
    ends = end_of_window_at(letter, window, changed)
  end
  local carried_till, carried = fixed_state(ends, was_one)
  if carried_till <= now then
    return till, one, 0
  elseif till <= now then
    return carried_till, carried, 0
  end
  return fixed_state(till, math.max(one, carried))
end

-- sliding_window.rs: converted, and worse
local function sliding_carry(window, till, one, two, was, was_till, was_one, was_two, changed, now)
  local _, left, _, this, last = sliding_counts(was, was_till, was_one, was_two, changed)
  local used = this + sliding_in_sight(was, left, last)
  local carried_till, carried_one, carried_two =
    sliding_state(window, changed - math.fmod(changed, window), used, 0)
  if till <= now then
    return carried_till, carried_one, carried_two
  end
  local start, _, _, own_this, own_last = sliding_counts(window, till, one, two, now)
  local other, _, _, other_this, other_last =
    sliding_counts(window, carried_till, carried_one, carried_two, now)
  if start == other then
    own_this, own_last = math.max(own_this, other_this), math.max(own_last, other_last)
  end
  return sliding_state(window, start, own_this, own_last)
end

local function carry(
  letter, n1, n2, n3, n4, n5, n6, till, one, two,
  was1, was2, was3, was4, was5, was6, was_till, was_one, was_two, changed, now
)
  if letter == 's' then
    return sliding_carry(n2, till, one, two, was2, was_till, was_one, was_two, changed, now)
  elseif letter ~= 'b' and letter ~= 'l' and letter ~= 'q' then
    return fixed_carry(letter, n2, till, one, was2, was_till, was_one, changed, now)
  end
  -- token_bucket.rs: converted, and worse
  local micros, parts = bucket_missing(was2, was5, was6, was_till, was_one, was_two, changed)
  if math.fmod(was_two, 2) == 0 and is_less(was5, was6, micros, parts) then
    micros, parts = was5, was6
  end
  local a, b, c = bucket_state(micros, parts, was5, was6, changed)
  micros, parts = bucket_scaled(n5, n6, a, b, c, changed, was5)
  a, b, c = bucket_state(micros, parts, n5, n6, changed)
  local own_micros, own_parts = bucket_missing(n2, n5, n6, till, one, two, now)
  micros, parts = bucket_missing(n2, n5, n6, a, b, c, now)
  if is_less(own_micros, own_parts, micros, parts) then
    return a, b, c
  end
  return till, one, two
end
