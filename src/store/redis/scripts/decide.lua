-- algorithm/mod.rs: decide, except for logs. Returns the verdict (0 admitted, 1 denied, 2 never),
-- the remaining tokens, the time to the reset, the receipt or the wait, and the new state.
local function decide(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, cost)
  if letter == 'b' or letter == 'l' or letter == 'q' then
    return bucket_decide(n1, n2, n3, n4, n5, n6, till, one, two, now, cost)
  elseif letter == 's' then
    return sliding_decide(n1, n2, till, one, two, now, cost)
  end
  return fixed_decide(letter, n1, n2, till, one, now, cost)
end
