-- Buckets and queues: a translation of src/rate_limit/decision/algorithm/token_bucket.rs and of
-- quota.rs. Follows numbers.lua.

-- quota.rs: comparison of Span
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

-- token_bucket.rs: scaled
local function bucket_scaled(refill_micros, refill_parts, till, one, two, now, refill)
  local missing, owes = math.max(till - now, 0), math.fmod(two, 2) == 1
  if one > 0 and missing > 0 then
    missing = missing - 1
  end
  refill = math.max(refill, 1)
  if owes then
    return muldiv_up(math.min(missing, 2 * refill), refill_micros, refill), 0
  elseif missing >= refill then
    return refill_micros, refill_parts
  end
  return muldiv_up(missing, refill_micros, refill), 0
end

-- token_bucket.rs: missing, and cut
local function bucket_missing(parts_of_one, refill_micros, refill_parts, till, one, two, now)
  if till <= now then
    return 0, 0
  end
  local refill = (two - math.fmod(two, 2)) / 2
  if refill > 0 and refill ~= refill_micros then
    refill = math.min(refill, 2251799813685248)
    return bucket_scaled(refill_micros, refill_parts, till, one, two, now, refill)
  end
  local micros, parts = till - now, one
  if parts == 0 or parts >= parts_of_one then
    parts = 0
  else
    micros = micros - 1
  end
  if micros > refill_micros + SLACK then
    if math.fmod(two, 2) == 0 then
      return refill_micros, refill_parts
    end
    local most_micros, most_parts =
      add(parts_of_one, refill_micros, refill_parts, refill_micros, refill_parts)
    if micros > most_micros + SLACK then
      return most_micros, most_parts
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
  -- In parts, an interval is the reduced window, and therefore below 2^53.
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
local function bucket_state(micros, parts, refill_micros, refill_parts, now)
  if micros == 0 and parts == 0 then
    return 0, 0, 0
  end
  local mark = 2 * refill_micros
  if is_less(refill_micros, refill_parts, micros, parts) then
    mark = mark + 1
  end
  return now + rounded_up(micros, parts), parts, mark
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
      if reset == 0 then
        return 0, left, 0, 0, 0, 0, 0
      end
      return 0, left, reset, now + reset, now + reset, then_parts, 2 * r_micros
    end
    if cost == 0 then
      local reset = rounded_up(micros, parts)
      return 0, 0, reset, now + reset, bucket_state(micros, parts, r_micros, r_parts, now)
    end
    local left = bucket_remaining(p, i_micros, i_parts, r_micros, r_parts, micros, parts)
    local reset = rounded_up(micros, parts)
    local wait = rounded_up(sub(p, then_micros, then_parts, r_micros, r_parts))
    return 1, left, reset, wait, bucket_state(micros, parts, r_micros, r_parts, now)
  end
  local left = bucket_remaining(p, i_micros, i_parts, r_micros, r_parts, micros, parts)
  local reset = rounded_up(micros, parts)
  return 2, left, reset, 0, bucket_state(micros, parts, r_micros, r_parts, now)
end
