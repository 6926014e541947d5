-- Arithmetic of all rate limit algorithms. The other files are a translation of
-- src/rate_limit/decision/algorithm/*.rs, one file for each, function by function. A test compares
-- all results. A server creates all functions of a script in each call, so a script consists of
-- those that its call needs only: see src/store/redis/rate_limit/scripts.rs.
--
-- Times and durations are integers in microseconds. All numbers are integers below 2^53, which a
-- double represents exactly. Larger products are divided during the multiplication (`muldiv`).
--
-- A state is three numbers: the time at which it expires, and two of the algorithm. A policy is a
-- letter and six numbers, as returned by `Policy::terms`:
--   w a m y fixed window, aligned, from the first request, of the month, of the year: limit, window
--   s       sliding window: limit, window
--   g       sliding log: limit, window; it has no state, see sliding_log.lua
--   b l q   bucket, queue: burst, parts of a microsecond, interval (micros, parts), refill (same)

local SLACK = 1000000
local EXACT = 9007199254740992

-- Returns floor(a * b / c) and the remainder. The quotient is below 2^53.
local function muldiv(a, b, c)
  local product = a * b
  if product < EXACT then
    local rest = math.fmod(product, c)
    return (product - rest) / c, rest
  end
  -- Doubles and adds bit by bit, and reduces each time before the result can exceed 2^53.
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

-- algorithm/mod.rs: mul_div_up
local function muldiv_up(a, b, c)
  local quotient, rest = muldiv(a, b, c)
  if rest > 0 then
    return quotient + 1
  end
  return quotient
end
