-- algorithm/mod.rs: decide, but for logs. Returns the verdict (0 admitted, 1 denied, 2 never), what
-- remains, how long to the reset, the receipt or the wait, and the state that is to be remembered.
local function decide(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, cost)
  if letter == 'b' or letter == 'l' or letter == 'q' then
    return bucket_decide(n1, n2, n3, n4, n5, n6, till, one, two, now, cost)
  elseif letter == 's' then
    return sliding_decide(n1, n2, till, one, two, now, cost)
  end
  return fixed_decide(letter, n1, n2, till, one, now, cost)
end
