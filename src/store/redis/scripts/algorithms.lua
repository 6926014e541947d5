-- The algorithms of rate limits: a translation of src/rate_limit/algorithm/*.rs, function by
-- function, of which a test compares each answer. Part of take.lua and refund.lua.
--
-- Moments and spans are whole microseconds. All numbers are integers below 2^53, which a double
-- holds exactly; where a product may be larger it is divided while it is made (`muldiv`).
--
-- A state is three numbers: the moment from which it equals none, and two of the algorithm's own.
-- A policy is a letter and six numbers, as `Policy::terms` gives them:
--   w a m   fixed window, of the clock, from the first request, of the month: limit, window
--   s g     sliding window: limit, window
--   b l q   bucket, queue: burst, parts of a microsecond, interval (micros, parts), refill (same)

local SLACK = 1000000
local EXACT = 9007199254740992

-- Returns floor(a * b / c), and what is left over. The quotient is below 2^53.
local function muldiv(a, b, c)
  local product = a * b
  if product < EXACT then
    local rest = math.fmod(product, c)
    return (product - rest) / c, rest
  end
  -- Doubled and added bit by bit, and reduced each time before it could pass 2^53.
  local step_rest = math.fmod(b, c)
  local step = (b - step_rest) / c
  local quotient, rest, bit = 0, 0, 1
  while bit * 2 <= a do
    bit = bit * 2
  end
  while bit >= 1 do
    quotient = quotient * 2
    if rest >= c - rest then
      rest, quotient = rest - (c - rest), quotient + 1
    else
      rest = rest + rest
    end
    if a >= bit then
      a, quotient = a - bit, quotient + step
      if rest >= c - step_rest then
        rest, quotient = rest - (c - step_rest), quotient + 1
      else
        rest = rest + step_rest
      end
    end
    bit = bit / 2
  end
  return quotient, rest
end

local function div(a, b)
  return (a - math.fmod(a, b)) / b
end

-- fixed_window.rs: next_month
local function next_month(day)
  local of_era = math.fmod(day + 719468, 146097)
  local era = (day + 719468 - of_era) / 146097
  local year = div(of_era - div(of_era, 1460) + div(of_era, 36524) - div(of_era, 146096), 365)
  local day_of_year = of_era - (365 * year + div(year, 4) - div(year, 100))
  local month = div(5 * day_of_year + 2, 153) + 1
  year, month = year + div(month, 12), math.fmod(month, 12)
  local first = div(153 * month + 2, 5)
  return era * 146097 + 365 * year + div(year, 4) - div(year, 100) + div(year, 400) + first - 719468
end

-- fixed_window.rs: end_of_window_at
local function end_of_window_at(letter, window, now)
  if letter == 'a' then
    return now + window
  elseif letter == 'w' then
    return now - math.fmod(now, window) + window
  end
  return next_month(div(now, 86400000000)) * 86400000000
end

-- fixed_window.rs: state
local function fixed_state(ends, used)
  if used > 0 then
    return ends, used, 0
  end
  return 0, 0, 0
end

-- fixed_window.rs: open
local function fixed_open(letter, window, till, one, now)
  if now >= till then
    return end_of_window_at(letter, window, now), 0
  end
  local latest = now + window
  if till > latest + SLACK then
    return latest, one
  end
  return till, one
end

-- fixed_window.rs: decide
local function fixed_decide(letter, limit, window, till, one, now, cost)
  local ends, used = fixed_open(letter, window, till, one, now)
  local reset = ends - now
  local left = math.max(limit - used, 0)
  if cost <= left then
    local charged = used + cost
    if charged == 0 then
      reset = 0
    end
    return 0, left - cost, reset, ends, fixed_state(ends, charged)
  elseif cost <= limit then
    return 1, left, reset, reset, fixed_state(ends, used)
  end
  if used == 0 then
    reset = 0
  end
  return 2, left, reset, 0, fixed_state(ends, used)
end

-- sliding_window.rs: counts
local function sliding_counts(window, till, one, two, now)
  local aligned = now - math.fmod(now, window)
  local start, this, last
  if till <= now then
    start, this, last = aligned, 0, 0
  elseif till > now + 2 * window then
    start, this, last = math.min(till - 2 * window, aligned + window), one, two
  elseif till > now + window then
    start, this, last = math.max(till - 2 * window, 0), one, two
  else
    start, this, last = math.max(till - window, 0), 0, one
  end
  local stands = math.max(start - now, 0)
  return start, start + window - (now + stands), stands, this, last
end

-- sliding_window.rs: state
local function sliding_state(window, start, this, last)
  if this > 0 then
    return start + 2 * window, this, last
  elseif last > 0 then
    return start + window, last, 0
  end
  return 0, 0, 0
end

-- sliding_window.rs: retry_after, its in_sight
local function part_in_sight(window, count, room)
  if room >= count then
    return window
  end
  return (muldiv(room, window, count))
end

-- sliding_window.rs: reset_after
local function sliding_reset(window, to_the_end, this, last)
  if this > 0 then
    return to_the_end + window
  elseif last > 0 then
    return to_the_end
  end
  return 0
end

-- sliding_window.rs: decide
local function sliding_decide(limit, window, till, one, two, now, cost)
  local start, left, stands, this, last = sliding_counts(window, till, one, two, now)
  local to_the_end = stands + left
  local in_sight, rest = muldiv(last, left, window)
  if rest > 0 then
    in_sight = in_sight + 1
  end
  local room = limit - this - in_sight
  if cost > limit then
    local reset = sliding_reset(window, to_the_end, this, last)
    return 2, math.max(room, 0), reset, 0, sliding_state(window, start, this, last)
  elseif cost <= room or cost == 0 then
    local reset = sliding_reset(window, to_the_end, this + cost, last)
    room = math.max(room - cost, 0)
    return 0, room, reset, start + 2 * window, sliding_state(window, start, this + cost, last)
  end
  local free, wait = limit - cost, nil
  if free >= this then
    wait = to_the_end - math.min(part_in_sight(window, math.max(last, 1), free - this), left)
  else
    wait = to_the_end + window - part_in_sight(window, math.max(this, 1), free)
  end
  local reset = sliding_reset(window, to_the_end, this, last)
  return 1, math.max(room, 0), reset, wait, sliding_state(window, start, this, last)
end

-- quota.rs: Span, compared
local function is_less(micros, parts, than_micros, than_parts)
  return micros < than_micros or (micros == than_micros and parts < than_parts)
end

-- quota.rs: Pace::times
local function times(parts_of_one, interval_micros, interval_parts, count)
  local parts = interval_parts * count
  local rest = math.fmod(parts, parts_of_one)
  return interval_micros * count + (parts - rest) / parts_of_one, rest
end

-- quota.rs: Pace::sub
local function sub(parts_of_one, micros, parts, less_micros, less_parts)
  if parts < less_parts then
    return micros - less_micros - 1, parts + parts_of_one - less_parts
  end
  return micros - less_micros, parts - less_parts
end

-- quota.rs: Pace::add
local function add(parts_of_one, micros, parts, more_micros, more_parts)
  micros, parts = micros + more_micros, parts + more_parts
  if parts >= parts_of_one then
    return micros + 1, parts - parts_of_one
  end
  return micros, parts
end

-- token_bucket.rs: missing, and cut
local function bucket_missing(parts_of_one, refill_micros, refill_parts, till, one, two, now)
  if till <= now then
    return 0, 0
  end
  local micros, parts = till - now, one
  if parts == 0 or parts >= parts_of_one then
    parts = 0
  else
    micros = micros - 1
  end
  if micros > refill_micros + SLACK then
    if two <= refill_micros then
      return refill_micros, refill_parts
    elseif micros > two + SLACK then
      return two, 0
    end
  end
  return micros, parts
end

-- token_bucket.rs: remaining, with quota.rs: Pace::gained_in
local function bucket_remaining(
  parts_of_one, interval_micros, interval_parts, refill_micros, refill_parts, micros, parts
)
  if not is_less(micros, parts, refill_micros, refill_parts) then
    return 0
  end
  micros, parts = sub(parts_of_one, refill_micros, refill_parts, micros, parts)
  -- In parts an interval is the window, shortened; and so it is below 2^53.
  local interval = interval_micros * parts_of_one + interval_parts
  local gained, rest = muldiv(micros, parts_of_one, interval)
  local parts_rest = math.fmod(parts, interval)
  gained = gained + (parts - parts_rest) / interval
  if rest >= interval - parts_rest then
    gained = gained + 1
  end
  return gained
end

local function rounded_up(micros, parts)
  if parts > 0 then
    return micros + 1
  end
  return micros
end

-- token_bucket.rs: TokenBucket::state_of
local function bucket_state(micros, parts, refill_micros, now)
  local owed = 0
  if micros > refill_micros then
    owed = micros
  end
  return now + rounded_up(micros, parts), parts, owed
end

-- token_bucket.rs: decide
local function bucket_decide(
  burst, p, i_micros, i_parts, r_micros, r_parts, till, one, two, now, cost
)
  local micros, parts = bucket_missing(p, r_micros, r_parts, till, one, two, now)
  if cost <= burst then
    local then_micros, then_parts = times(p, i_micros, i_parts, cost)
    then_micros, then_parts = add(p, micros, parts, then_micros, then_parts)
    if not is_less(r_micros, r_parts, then_micros, then_parts) then
      local left = bucket_remaining(
        p, i_micros, i_parts, r_micros, r_parts, then_micros, then_parts
      )
      local reset = rounded_up(then_micros, then_parts)
      return 0, left, reset, now + reset, now + reset, then_parts, 0
    end
    if cost == 0 then
      local reset = rounded_up(micros, parts)
      return 0, 0, reset, now + reset, bucket_state(micros, parts, r_micros, now)
    end
    local left = bucket_remaining(p, i_micros, i_parts, r_micros, r_parts, micros, parts)
    local reset = rounded_up(micros, parts)
    local wait = rounded_up(sub(p, then_micros, then_parts, r_micros, r_parts))
    return 1, left, reset, wait, bucket_state(micros, parts, r_micros, now)
  end
  local left = bucket_remaining(p, i_micros, i_parts, r_micros, r_parts, micros, parts)
  local reset = rounded_up(micros, parts)
  return 2, left, reset, 0, bucket_state(micros, parts, r_micros, now)
end

-- algorithm/mod.rs: decide. Returns the verdict (0 admitted, 1 denied, 2 never), what remains, how
-- long to the reset, the receipt or the wait, and the state that is to be remembered.
local function decide(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, cost)
  if letter == 'b' or letter == 'l' or letter == 'q' then
    return bucket_decide(n1, n2, n3, n4, n5, n6, till, one, two, now, cost)
  elseif letter == 's' or letter == 'g' then
    return sliding_decide(n1, n2, till, one, two, now, cost)
  end
  return fixed_decide(letter, n1, n2, till, one, now, cost)
end

-- algorithm/mod.rs: refund. Returns the state that is to be remembered.
local function refund(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, receipt, amount)
  if letter == 's' or letter == 'g' then
    local start, _, _, this, last = sliding_counts(n2, till, one, two, now)
    if receipt == start + 2 * n2 then
      this = math.max(this - amount, 0)
    elseif receipt == start + n2 then
      last = math.max(last - amount, 0)
    end
    return sliding_state(n2, start, this, last)
  elseif letter == 'w' or letter == 'a' or letter == 'm' then
    if till <= now or till ~= receipt then
      return till, one, two
    end
    return fixed_state(till, math.max(one - amount, 0))
  elseif letter == 'q' and till ~= receipt then
    return till, one, two
  end
  local micros, parts = bucket_missing(n2, n5, n6, till, one, two, now)
  local back_micros, back_parts = times(n2, n3, n4, math.min(amount, n1))
  local outstanding = math.max(receipt - now, 0)
  if is_less(outstanding, 0, back_micros, back_parts) then
    back_micros, back_parts = outstanding, 0
  end
  if is_less(micros, parts, back_micros, back_parts) then
    back_micros, back_parts = micros, parts
  end
  micros, parts = sub(n2, micros, parts, back_micros, back_parts)
  return bucket_state(micros, parts, n5, now)
end

-- algorithm/mod.rs: owed
local function owed(limit, used, amount)
  local most = math.max(math.min(limit * 2, EXACT), used)
  return math.min(used + amount, most)
end

-- algorithm/mod.rs: charge. Returns the state that is to be remembered.
local function charge(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, amount)
  if letter == 's' or letter == 'g' then
    local start, _, _, this, last = sliding_counts(n2, till, one, two, now)
    return sliding_state(n2, start, owed(n1, this, amount), last)
  elseif letter == 'w' or letter == 'a' or letter == 'm' then
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
  return bucket_state(micros, parts, n5, now)
end
