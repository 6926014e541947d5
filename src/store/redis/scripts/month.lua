-- The ends of months and years: src/rate_limit/decision/algorithm/fixed_window.rs.

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

-- fixed_window.rs: first_day
local function first_day(year)
  return 365 * year + div(year + 3, 4) - div(year + 99, 100) + div(year + 399, 400)
end

-- fixed_window.rs: next_year
local function next_year(day)
  local since = day + 135140
  local year = div(since * 400, 146097) + 1
  if first_day(year) <= since then
    year = year + 1
  end
  if first_day(year - 1) > since then
    year = year - 1
  end
  return first_day(year) - 135140
end
