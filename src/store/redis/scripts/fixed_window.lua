-- Fixed windows: a translation of src/rate_limit/decision/algorithm/fixed_window.rs. Follows
-- numbers.lua, and month.lua if a window is a month or a year.

-- fixed_window.rs: end_of_window_at
local function end_of_window_at(letter, window, now)
  if letter == 'a' then
    return now + window
  elseif letter == 'w' then
    return now - math.fmod(now, window) + window
  end
  local day = div(now, 86400000000)
  return (letter == 'm' and next_month(day) or next_year(day)) * 86400000000
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
