-- algorithm/mod.rs: refund, except for logs. Returns the new state.
local function refund(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, receipt, amount)
  if letter == 's' then
    local start, _, _, this, last = sliding_counts(n2, till, one, two, now)
    if receipt == start + 2 * n2 then
      this = math.max(this - amount, 0)
    elseif receipt == start + n2 then
      last = math.max(last - amount, 0)
    end
    return sliding_state(n2, start, this, last)
  elseif letter ~= 'b' and letter ~= 'l' and letter ~= 'q' then
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
  return bucket_state(micros, parts, n5, n6, now)
end
