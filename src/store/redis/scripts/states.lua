-- The time of the server, and the states in the hash of a partition.

local pcall, pack, unpack_from = redis.pcall, struct.pack, struct.unpack
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- Returns the stored state, or an empty one if it cannot be parsed.
local function state_of(field)
  if field and #field == 24 then
    local till, one, two = unpack_from('<ddd', field)
    local is_state = till >= 0 and till < EXACT and one >= 0 and one <= EXACT
    if is_state and two >= 0 and two <= EXACT then
      return till, one, two
    end
  end
  return 0, 0, 0
end

-- Writes states, and extends the key's expiry if it is before the latest of them. Returns an error
-- if there is one.
local function write_states(key, write, latest, expires)
  -- The key outlives its states by a quarter, so that not every write extends it.
  local now_millis, needed = math.floor(now / 1000), math.ceil(latest / 1000)
  expires = tonumber(expires or 0) or 0
  local moment
  if not (expires >= needed and expires > now_millis) then
    needed = math.max(needed, now_millis)
    moment = string.format('%.0f', needed + math.max(1000, math.ceil((needed - now_millis) / 4)))
    write[#write + 1] = 'x'
    write[#write + 1] = moment
  end
  local written = pcall('HSET', key, unpack(write))
  if type(written) == 'table' then
    return written
  elseif moment then
    redis.call('PEXPIREAT', key, moment)
  end
end
