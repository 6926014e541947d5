-- Sliding windows: a translation of src/rate_limit/decision/algorithm/sliding_window.rs. Follows
-- numbers.lua.

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

-- sliding_window.rs: in_sight
local function sliding_in_sight(window, left, last)
  return math.max(muldiv_up(last, left, window) - 1, 0)
end

-- sliding_window.rs: may_be_left
local function may_be_left(window, last, in_sight)
  if in_sight + 1 >= last then
    return window
  end
  return (muldiv(in_sight + 1, window, last))
end

-- sliding_window.rs: reset_after
local function sliding_reset(window, left, to_the_end, this, last)
  if this > 0 then
    return to_the_end + window - may_be_left(window, this, 0)
  elseif sliding_in_sight(window, left, last) == 0 then
    return 0
  end
  return to_the_end - math.min(may_be_left(window, last, 0), left)
end

-- sliding_window.rs: decide
local function sliding_decide(limit, window, till, one, two, now, cost)
  local start, left, stands, this, last = sliding_counts(window, till, one, two, now)
  local to_the_end = stands + left
  local room = limit - this - sliding_in_sight(window, left, last)
  if cost > limit then
    local reset = sliding_reset(window, left, to_the_end, this, last)
    return 2, math.max(room, 0), reset, 0, sliding_state(window, start, this, last)
  elseif cost <= room or cost == 0 then
    local reset = sliding_reset(window, left, to_the_end, this + cost, last)
    room = math.max(room - cost, 0)
    return 0, room, reset, start + 2 * window, sliding_state(window, start, this + cost, last)
  end
  local free, wait = limit - cost, nil
  if free >= this then
    wait = to_the_end - math.min(may_be_left(window, last, free - this), left)
  else
    wait = to_the_end + window - may_be_left(window, this, free)
  end
  local reset = sliding_reset(window, left, to_the_end, this, last)
  return 1, math.max(room, 0), reset, wait, sliding_state(window, start, this, last)
end
